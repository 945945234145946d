"""Which thing of this picture is which of the last one, and whether it moves. Pure; any thread.

Pairs of boxes of one class that overlap most are the same thing, one pair after the other: no motion is foretold and
nothing is drawn, so that a replay gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from edge_runtime.boxes import overlaps

Box = tuple[float, float, float, float]
SAME = 0.3
"""Boxes that overlap by less (intersection over union) are of different things."""
PATIENCE_NS = 1_000_000_000
"""What has not been seen for longer is gone; seen again, it is something new."""
STEP = 0.2
"""Something has moved where an edge of its box has by this part of the box's side: detectors' boxes tremble."""
STILL_NS = 1_000_000_000
"""It counts as moving for so long after it has moved."""


class Track(Struct, frozen=True):
    """One thing that is followed."""

    number: int
    label: str
    box: Box
    seen_ns: int
    """Capture time of the picture that it was last seen in."""
    rest: Box
    """Where it was when it was first seen, or had moved last."""
    moved_ns: int | None = None
    """When it had moved last."""

    def moving(self, at_ns: int) -> bool:
        return self.moved_ns is not None and at_ns - self.moved_ns < STILL_NS


class Tracks(Struct, frozen=True):
    """All that is followed, and what the next thing will be called."""

    followed: tuple[Track, ...] = ()
    next: int = 1


class Seen(NamedTuple):
    """One thing in a picture."""

    label: str
    box: Box


def follow(tracks: Tracks, seen: Sequence[Seen], at_ns: int) -> tuple[Tracks, tuple[Track, ...]]:
    """The tracks after a picture captured at `at_ns`, and the track of each thing that was `seen` in it.

    The greatest overlap goes first; of equal ones the older track, then what is named first.
    """
    known = [track for track in tracks.followed if at_ns - track.seen_ns <= PATIENCE_NS]
    alike = overlaps(_array(track.box for track in known), _array(thing.box for thing in seen))
    pairs = sorted(
        (-alike[row, column], track.number, column, row)
        for row, track in enumerate(known)
        for column, thing in enumerate(seen)
        if track.label == thing.label and alike[row, column] >= SAME
    )
    match: dict[int, int] = {}
    for _, _, column, row in pairs:
        if column not in match and row not in match.values():
            match[column] = row
    found, number = [], tracks.next
    for column, thing in enumerate(seen):
        if column in match:
            found.append(_moved(known[match[column]], thing.box, at_ns))
        else:
            found.append(Track(number, thing.label, thing.box, at_ns, thing.box))
            number += 1
    unseen = [track for row, track in enumerate(known) if row not in match.values()]
    followed = sorted((*unseen, *found), key=lambda track: track.number)
    return Tracks(tuple(followed), number), tuple(found)


def _moved(track: Track, box: Box, at_ns: int) -> Track:
    width, height = track.rest[2] - track.rest[0], track.rest[3] - track.rest[1]
    sides = (width, height, width, height)
    still = all(abs(new - old) <= STEP * side for new, old, side in zip(box, track.rest, sides, strict=True))
    if still:
        return replace(track, box=box, seen_ns=at_ns)
    return replace(track, box=box, seen_ns=at_ns, rest=box, moved_ns=at_ns)


def _array(boxes: object) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(list(boxes), np.float64).reshape(-1, 4)  # type: ignore[call-overload]
