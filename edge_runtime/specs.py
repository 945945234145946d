"""What a bundle says of its camera, sensor and text streams: what may arrive, how often, how old is too old. That of
sound is in `kinds.audio`."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

# Not `gt=0`: that is checked against the smallest denormal, which counts as 0 on a thread that ran ONNX Runtime.
Positive = Annotated[float, Meta(ge=1e-12)]
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]

NS_PER_MS = 1_000_000
CLIP_SIGMA = 5.0
"""Standardised sound is cut off at so many deviations, and readings where their stream says nothing else."""


class Channel(Struct, frozen=True, forbid_unknown_fields=True):
    """One sensor channel: its unit, the range physics allows, and the training data's mean and deviation."""

    name: str
    """As senders call it."""
    unit: str
    """For people, e.g. `m/s`."""
    minimum: float
    """The smallest that physics allows; a reading below it is refused."""
    maximum: float
    """The largest that physics allows."""
    mean: float = 0.0
    """Of the training data; fitted by the training."""
    std: Positive = 1.0
    """Deviation of the training data; fitted by the training."""
    required: bool = False
    """A required channel that is missing or stale forces the safe decision."""


class CameraStream(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="camera"):
    """Frames; the newest only is kept."""

    width: Count
    """Pixels, as the model takes them; frames of other sizes are scaled, as `fit` and `scaling` say."""
    height: Count
    """Pixels."""
    rate_hz: Positive
    """Expected frames a second."""
    max_age_ms: Positive
    """An older frame is absent."""
    required: bool = False
    """Without it the decision is the safe one."""
    frozen_after: Annotated[int, Meta(ge=0)] = 0
    """Refuse frames after this many byte-identical ones in a row (a hung camera); 0 = never."""
    min_brightness: Annotated[float, Meta(ge=0, le=255)] = 0.0
    """Refuse frames whose brightest sampled pixel is below this (a covered or dead sensor); 0 = never. Of a JPEG the
    pixels as they are decoded: with `scaling = "reduced"` each is the mean of its neighbours too."""
    fit: Literal["stretch", "letterbox", "crop"] = "stretch"
    """How a frame of another shape comes to `width` x `height`: distorted; whole, with grey bars; or its middle."""
    scaling: Literal["whole", "reduced"] = "whole"
    """How it is scaled down: `whole` decodes all of a JPEG and averages areas; `reduced` decodes a JPEG at 1/2, 1/4 or
    1/8 and halves a raw frame as long as that covers what the model takes (and no side is odd), and averages the rest:
    several times faster.
    A model runs on what it was trained on."""


class SensorStream(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sensors"):
    """Named float values; a window of them is resampled to a fixed step."""

    channels: tuple[Channel, ...]
    rate_hz: Positive
    """Expected messages a second, for health only."""
    max_age_ms: Positive
    """A value older than this counts as missing, channel by channel."""
    window: Count = 1
    """Steps in the model's window (T)."""
    step_ms: Positive = 100.0
    """Between two steps of the window."""
    hop_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Move the window at most this often, so that its encoder runs at the sensors' rate; 0 = with every sample."""
    required: bool = False
    """Without it the decision is the safe one."""
    clip: Annotated[float, Meta(ge=0)] = CLIP_SIGMA
    """Standardised values are cut off at this many deviations: a reading far outside the training data must not
    extrapolate; 0 = never, which is what a recipe with `[onnx]` means where it says nothing."""


class TextStream(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Sentences; the newest that has not expired counts."""

    max_tokens: Count
    """What the model reads of a sentence: pieces, or words where `word_pieces` is given."""
    max_age_ms: Positive
    """Time to live: an older sentence is absent."""
    rate_hz: Positive = 0.2
    """Expected sentences a second."""
    languages: tuple[str, ...] = ()
    """For people: what it was trained on."""
    max_chars: Count = 512
    """A longer sentence is cut off there."""
    required: bool = False
    """Without it the decision is the safe one."""
    word_pieces: Annotated[int, Meta(ge=0)] = 0
    """Encode each word (what white space parts) by itself in at most this many pieces, so that a tag belongs to a
    word; 0 = the sentence is one run of pieces."""
    sentence_pieces: Annotated[int, Meta(ge=0)] = 0
    """With `word_pieces`: the pieces of all words follow each other in one row of this many, between the tokenizer's
    marks, so that a model reads words in their sentence; 0 = a row of pieces for each word."""
    tokenizer: Literal["sentencepiece", "huggingface"] = "sentencepiece"
    """The bundle's file that makes pieces of text: `tokenizer.model` or `tokenizer.json`."""


class Aged(Protocol):
    """A stream of any kind: each says how old is too old."""

    @property
    def max_age_ms(self) -> float: ...


def max_age_ns(spec: Aged) -> int:
    """The stream's maximum age in nanoseconds."""
    return int(spec.max_age_ms * NS_PER_MS)
