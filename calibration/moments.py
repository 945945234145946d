"""Recorded moments as the device would see them: raw messages through its own admission and alignment.

What training, calibration and evaluation read, whatever the data's layout.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from edge_runtime.admit import Refusal
from edge_runtime.align import History, align
from edge_runtime.kinds.kind import Admit, Partly
from edge_runtime.messages import AlignedSet, Message
from edge_runtime.streams import StreamSpec, kind_of


@dataclass(frozen=True, slots=True)
class Later:
    """Content that is read from its file each time it is looked at, by whichever process does."""

    path: Path
    load: Callable[[Path], Any]
    """Raises UserError. A function of a module, so that it can go to another process."""


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as a sender would send it."""

    stream: str
    captured_ns: int
    held: Any
    """The content, or a `Later` that reads it."""

    @property
    def content(self) -> Any:
        """What the kind of the stream takes: see `Kind.content`. Raises UserError where a file cannot be read."""
        return self.held.load(self.held.path) if isinstance(self.held, Later) else self.held


class TrueObject(Struct, frozen=True):
    """One thing that is in a camera's picture."""

    label: str
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in shares of the picture."""
    crowd: bool = False
    """Many of the kind, not told apart: what is found there is neither right nor wrong (COCO's `iscrowd`)."""


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
    objects: tuple[TrueObject, ...] = ()
    """For a detection head: everything that is in the picture."""


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
    admit = _admissions(streams)
    seq: Counter[str] = Counter()
    for moment in sets:
        begins, group = moment.group != group, moment.group
        if begins:
            admit = _admissions(streams)
        messages: list[Message] = []
        for raw in moment.messages:
            if raw.stream in drop or raw.stream not in streams:
                continue
            make = admit[raw.stream](raw.content)
            if isinstance(make, Partly):
                if refused is not None:
                    refused.update(f"{raw.stream} {why.reason} ({part})" for part, why in make.refused.items())
                make = make.make
            if not isinstance(make, Refusal):
                messages.append(make(raw.stream, seq[raw.stream], raw.captured_ns, None))
                seq[raw.stream] += 1
            elif refused is not None:
                refused[f"{raw.stream} {make.reason}"] += 1
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
        history.decided(moment.reference_ns)
        for part in aligned.slices.values():
            history.settle(part, moment.reference_ns)


def digest(moments: Iterable[LabelledSet]) -> str:
    """sha256 (hex) over everything that `moments` hold, the bytes of their files too. Raises UserError."""
    total = hashlib.sha256()
    for moment in moments:
        about = [moment.id, moment.group, moment.reference_ns, moment.label, moment.label_without, moment.condition]
        about += [moment.tags, moment.cluster, moment.values, moment.side, len(moment.messages)]
        total.update(msgspec.json.encode(about, order="deterministic"))
        for raw in moment.messages:
            total.update(f"{raw.stream} {raw.captured_ns} ".encode())
            total.update(_bytes_of(raw))
    return total.hexdigest()


def _bytes_of(raw: RawMessage) -> bytes:
    if isinstance(raw.held, Later):
        try:
            return hashlib.sha256(raw.held.path.read_bytes()).digest()
        except OSError:
            raw.held.load(raw.held.path)  # says what is wrong
            raise
    return msgspec.json.encode(raw.content, enc_hook=_described, order="deterministic")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    raise TypeError(f"a message holds {type(value).__name__}")


def _admissions(streams: Mapping[str, StreamSpec]) -> dict[str, Admit]:
    return {name: kind_of(spec).admission(spec) for name, spec in streams.items()}
