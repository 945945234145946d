"""Inputs that come late, as a device would know them: held back, or stamped earlier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from build_engines.modalities import modality_of
from build_engines.modalities.faults import Moments
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.streams import StreamSpec


def late(moments: Moments, delays_ns: Mapping[str, int], streams: Mapping[str, StreamSpec]) -> Iterator[LabelledSet]:
    """What is known at each moment when the messages of some streams come later than they were captured.

    In a recording, the messages are held back: old content, its true stamps. A picture is stamped as captured exactly
    so long ago, for the device has one at its own rate and the recording may not. A group of a single moment has no
    past: there its own messages are stamped earlier.
    """
    for _, part in groupby(moments, key=lambda moment: moment.group):
        group = list(part)
        if len(group) == 1:
            yield _stamped(group[0], delays_ns)
        else:
            yield from _held_back(group, delays_ns, streams)


def _stamped(moment: LabelledSet, delays_ns: Mapping[str, int]) -> LabelledSet:
    messages = (replace(raw, captured_ns=raw.captured_ns - delays_ns.get(raw.stream, 0)) for raw in moment.messages)
    return replace(moment, messages=tuple(messages))


def _held_back(
    group: list[LabelledSet], delays_ns: Mapping[str, int], streams: Mapping[str, StreamSpec]
) -> Iterator[LabelledSet]:
    waiting: list[RawMessage] = []
    newest: dict[str, RawMessage] = {}
    for moment in group:
        arrived: list[RawMessage] = []
        still: list[RawMessage] = []
        for raw in (*waiting, *moment.messages):
            on_time = raw.captured_ns + delays_ns.get(raw.stream, 0) <= moment.reference_ns
            (arrived if on_time else still).append(raw)
        waiting = still
        messages = [raw for raw in arrived if not (delays_ns.get(raw.stream) and _steady(streams, raw))]
        newest |= {raw.stream: raw for raw in arrived if delays_ns.get(raw.stream) and _steady(streams, raw)}
        for name, raw in newest.items():
            messages.append(replace(raw, captured_ns=moment.reference_ns - delays_ns[name]))
        yield replace(moment, messages=tuple(sorted(messages, key=lambda raw: raw.captured_ns)))


def _steady(streams: Mapping[str, StreamSpec], raw: RawMessage) -> bool:
    return raw.stream in streams and modality_of(streams[raw.stream]).steady
