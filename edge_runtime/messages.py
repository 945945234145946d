"""The frozen types that cross a stage of the run flow.

Times are integer nanoseconds of the monotonic clock. `seq` counts a stream's admitted messages from 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from msgspec import UNSET, Struct, UnsetType, field
from numpy.typing import NDArray

from edge_runtime import pictures

Tensor = NDArray[np.generic]
Tensors = Mapping[str, Tensor]


class _Captured(Struct, frozen=True):
    stream: str
    seq: int
    captured_ns: int


class Message(_Captured, frozen=True, kw_only=True):
    """One admitted message of a stream; each kind of stream has its own."""

    id: str | None = None
    """The sender's own mark; comes back in the decision."""


class Frame(Message, frozen=True):
    """One camera picture."""

    picture: bytes | memoryview | NDArray[np.uint8]
    """As it came, never written into: a JPEG's bytes, or [height, width, 3] uint8, BGR (OpenCV's order). Of a raw
    picture that nobody records only its `pixels`."""
    pixels: NDArray[np.uint8] | None = None
    """[height, width, 3] uint8 BGR as the stream's model takes it; None until a stream has taken it."""
    size: tuple[int, int] | None = None
    """Width and height of the picture that `pixels` were made of, as it was decoded; None until a stream has taken it.
    """

    @property
    def encoded(self) -> bytes | memoryview | None:
        """The JPEG, where it came as one."""
        return None if isinstance(self.picture, np.ndarray) else self.picture

    @property
    def image(self) -> NDArray[np.uint8]:
        """The whole picture, [height, width, 3] uint8 BGR; a JPEG is decoded each time. Raises PictureError."""
        return self.picture if isinstance(self.picture, np.ndarray) else pictures.decode(self.picture)


class Sample(Message, frozen=True):
    """Sensor values taken at one time; not every channel need be there."""

    values: Mapping[str, float]
    """Channel name to value, in the channel's unit."""


class Speech(Struct, frozen=True):
    """How a sentence was heard that was spoken; it ended when it was captured."""

    duration_ms: float
    """From its beginning to its end."""
    delay_ms: float
    """From its end until it was understood."""
    score: float | UnsetType = UNSET
    """By how much a piece of it was less probable than what would have been heard without a grammar, natural logarithm,
    on average; missing where the recogniser tells none."""
    margin: float | UnsetType = UNSET
    """By how much it was more probable than the next sentence, natural logarithm; missing where none was near."""


class Utterance(Message, frozen=True):
    """One sentence, spoken or typed."""

    text: str
    lang: str | None = None
    truncated: bool = False
    """The sender's text was longer than the stream allows; the rest was cut off."""
    speech: Speech | None = None
    """Where this runtime heard it itself."""


class Words(NamedTuple):
    """A sentence before it is admitted."""

    text: str
    lang: str | None = None
    speech: Speech | None = None


def words_of(text: str) -> list[str]:
    """The words that a tagging head tags: what white space parts. The same everywhere, so that tags fit words."""
    return text.split()


class Slice(Struct, frozen=True):
    """What alignment chose of one stream for one decision."""

    stream: str
    present: bool
    messages: tuple[Message, ...] = ()
    """The newest frame or sentence, or all that makes up a window of samples or sound."""
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
    outputs: Mapping[str, Tensors] = field(default_factory=lambda: MappingProxyType({}))
    """What each stage gave, whose inputs were there, by its name."""


class Detection(Struct, frozen=True, rename={"label": "class"}):
    """One thing that was seen in a camera's picture; in JSON `label` is called `class`."""

    label: str
    score: float
    """0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in shares of the camera's picture (0 to 1), whatever of it the model was shown."""
    track: int | UnsetType = UNSET
    """The same number for the same thing from one picture to the next; none is given twice, until the runtime's memory
    starts afresh (a reload, a sleep)."""
    moving: bool | UnsetType = UNSET
    """Whether it has moved lately, where it is tracked."""
    zones: tuple[str, ...] | UnsetType = UNSET
    """Zones of the configuration that it stands in; missing where there are none."""


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
    detections: tuple[Detection, ...] | UnsetType = UNSET
    """Of a detection head: what was seen, the surest first; empty where it looked and saw nothing."""
