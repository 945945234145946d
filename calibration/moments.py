"""Recorded moments as the device would see them: raw messages through its own admission and alignment.

What training, calibration and evaluation read, whatever the data's layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.align import History, align
from edge_runtime.capture.admit import (
    FreezeDetector,
    Refusal,
    admit_image,
    admit_sample,
    admit_text,
    decode_jpeg,
)
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Utterance
from edge_runtime.streams import CameraStream, StreamSpec, TextStream


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as a sender would send it: exactly one of `jpeg`, `values`, `text` and `image` is given."""

    stream: str
    captured_ns: int
    jpeg: bytes | None = None
    values: Mapping[str, float] | None = None
    text: str | None = None
    lang: str | None = None
    image: NDArray[np.uint8] | None = None
    """[height, width, 3] BGR: a picture that is decoded already."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A labelled moment: what arrived since the previous one of its group, and the right decision at `reference_ns`.

    Groups (an episode, or a single sample) are independent: the runtime's memory starts afresh with each.
    """

    id: str
    group: str
    reference_ns: int
    label: str
    messages: tuple[RawMessage, ...]
    label_without: Mapping[str, str] = field(default_factory=dict)
    """Stream to the right decision had that stream been absent, where it differs."""
    condition: str = ""
    tags: tuple[str, ...] = ()
    """For a tagging head: the right tag of each word of the sentence, words being what spaces part."""
    cluster: str = ""
    """Moments of one cluster are not independent (near doubles, one patient); empty = those of one group."""
    values: Mapping[str, float] = field(default_factory=dict)
    """For regression heads: the right value by name."""
    side: Mapping[str, str] = field(default_factory=dict)
    """Name of a head beside the first, where it answers with a label, to the right one."""


def admitted(
    streams: Mapping[str, StreamSpec],
    sets: Iterable[LabelledSet],
    drop: Sequence[str] = (),
    refused: Counter[str] | None = None,
) -> Iterator[tuple[LabelledSet, bool, list[Message]]]:
    """Each labelled moment, whether it begins a group, and its messages that the device would admit.

    Messages of the streams in `drop` never arrive. Refusals are counted in `refused` by `stream reason`. Sequence
    numbers go on from group to group.
    """
    group: str | None = None
    freeze = _freeze(streams)
    seq: Counter[str] = Counter()
    for moment in sets:
        begins, group = moment.group != group, moment.group
        if begins:
            freeze = _freeze(streams)
        messages: list[Message] = []
        for raw in moment.messages:
            if raw.stream in drop or raw.stream not in streams:
                continue
            message = admit(streams[raw.stream], raw, seq[raw.stream], freeze.get(raw.stream))
            if not isinstance(message, Refusal):
                seq[raw.stream] += 1
                messages.append(message)
            elif refused is not None:
                refused[f"{raw.stream} {message.reason}"] += 1
        yield moment, begins, messages


def replay(
    streams: Mapping[str, StreamSpec],
    sets: Iterable[LabelledSet],
    drop: Sequence[str] = (),
    refused: Counter[str] | None = None,
) -> Iterator[tuple[LabelledSet, AlignedSet]]:
    """Each labelled moment with what the device's admission and alignment make of it; refusals as in `admitted`."""
    history = History(streams)
    for moment, begins, messages in admitted(streams, sets, drop, refused):
        if begins:
            history = History(streams)
        for message in messages:
            history.add(message)
        aligned = align(streams, history.messages, moment.reference_ns, moment.reference_ns)
        yield moment, aligned
        for part in aligned.slices.values():
            history.settle(part)


def _freeze(streams: Mapping[str, StreamSpec]) -> dict[str, FreezeDetector]:
    return {name: FreezeDetector(spec) for name, spec in streams.items() if isinstance(spec, CameraStream)}


def admit(spec: StreamSpec, raw: RawMessage, seq: int, freeze: FreezeDetector | None = None) -> Message | Refusal:
    """`raw` through the device's admission."""
    if isinstance(spec, CameraStream):
        image = raw.image if raw.image is not None else decode_jpeg(raw.jpeg or b"")
        if not isinstance(image, Refusal):
            image = admit_image(spec, image)
        if isinstance(image, Refusal):
            return image
        frozen = freeze.admit(image) if freeze else None
        return frozen or Frame(raw.stream, seq, raw.captured_ns, image)
    if isinstance(spec, TextStream):
        words = admit_text(spec, raw.text or "")
        if isinstance(words, Refusal):
            return words
        return Utterance(raw.stream, seq, raw.captured_ns, words[0], raw.lang, words[1])
    values = admit_sample(spec, raw.values or {})
    return values if isinstance(values, Refusal) else Sample(raw.stream, seq, raw.captured_ns, values)
