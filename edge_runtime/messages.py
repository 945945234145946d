"""The frozen types that cross a stage of the run flow.

Times are integer nanoseconds of the monotonic clock. `seq` counts a stream's admitted messages from 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from msgspec import UNSET, Struct, UnsetType, field
from numpy.typing import NDArray

Tensor = NDArray[np.generic]
Tensors = Mapping[str, Tensor]


class Frame(Struct, frozen=True):
    """One camera picture."""

    stream: str
    seq: int
    captured_ns: int
    image: NDArray[np.uint8]
    """[height, width, 3] uint8, BGR (OpenCV's order)."""
    id: str | None = None
    """The sender's own mark; comes back in the decision."""
    encoded: bytes | memoryview | None = None
    """The JPEG that `image` was decoded from, where it came as one; never written into."""


class Sample(Struct, frozen=True):
    """Sensor values taken at one time; not every channel need be there."""

    stream: str
    seq: int
    captured_ns: int
    values: Mapping[str, float]
    """Channel name to value, in the channel's unit."""
    id: str | None = None


class Utterance(Struct, frozen=True):
    """One sentence, spoken or typed."""

    stream: str
    seq: int
    captured_ns: int
    text: str
    lang: str | None = None
    truncated: bool = False
    """The sender's text was longer than the stream allows; the rest was cut off."""
    id: str | None = None


Message = Frame | Sample | Utterance


def words_of(text: str) -> list[str]:
    """The words that a tagging head tags: what white space parts. The same everywhere, so that tags fit words."""
    return text.split()


class Slice(Struct, frozen=True):
    """What alignment chose of one stream for one decision."""

    stream: str
    present: bool
    messages: tuple[Message, ...] = ()
    """A camera's one frame, the text's one utterance, or the samples that make up the sensor window."""
    key: Hashable = None
    """Equal keys mean equal tensors: what the feature cache compares."""
    age_ns: int | None = None
    """Age at decision time of the newest message chosen; of the one found too old where absent; None = never seen."""
    until_ns: int = 0
    """Messages captured up to here were considered."""
    reason: str | None = None
    """Why the stream is absent: `missing`, `stale` or `expired`."""
    missing_channels: tuple[str, ...] = ()
    """Required sensor channels without a fresh value."""

    @property
    def newest(self) -> Message | None:
        """The newest message chosen."""
        return self.messages[-1] if self.messages else None


class AlignedSet(Struct, frozen=True):
    """The messages that belong together at `reference_ns`."""

    reference_ns: int
    slices: Mapping[str, Slice]


class Inference(Struct, frozen=True):
    """What the stage graph gave for one aligned set."""

    output: NDArray[np.float32] | None
    """The head's raw values (logits), or None where inference was not possible."""
    stage_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Nanoseconds spent per stage; 0 = the cached features were still valid."""
    preprocess_ns: int = 0
    error: str | None = None
    side: Mapping[str, NDArray[np.float32]] = field(default_factory=lambda: MappingProxyType({}))
    """Name of a head beside the first to its raw values."""


class Verdict(Struct, frozen=True):
    """What a head and its policy say: the part of a decision that is a pure function of the model's output."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    source: Literal["model", "safe"]
    reason: str | None = None
    tags: tuple[str, ...] = ()
    """A tag per word, or all labels that hold; see the heads."""
    values: Mapping[str, float] | UnsetType = UNSET
    """Of a regression head: each value by name, in its unit."""
