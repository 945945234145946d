"""The front of accuracy against time: the contestants that no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from build_engines.comparison.contest import Contest, Row
from build_engines.heads.intervals import Interval


class Place(Struct, frozen=True):
    """Where a contestant stands."""

    name: str
    ms: float
    figure: Interval
    behind: str = ""
    """One of the front that is at least as fast and as good, and better in one of these; empty on the front."""
    slower_ms: float = 0.0
    """Of the front: what it takes more than the next faster one there."""
    bought: Interval | None = None
    """Of the front: what that time buys, the paired difference of the figure; None of the fastest."""

    @property
    def words(self) -> str:
        """The place, for people."""
        if self.behind:
            return f"behind {self.behind}"
        if self.bought is None:
            return "front: the fastest"
        gap = self.bought
        proven = "" if gap.low > 0 else ", not proven"
        return f"front: {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] for {self.slower_ms:.2f} ms more{proven}"


def beats(one: Row, other: Row) -> bool:
    """Whether `one` is at least as fast and as good as `other`, and better in one of these (Pareto dominance). Both
    have a time."""
    assert one.ms is not None and other.ms is not None
    no_worse = one.ms <= other.ms and one.figure.value >= other.figure.value
    return no_worse and (one.ms < other.ms or one.figure.value > other.figure.value)


def places(contest: Contest, rows: Sequence[Row]) -> tuple[Place, ...]:
    """Those of `rows` that have a time, the fastest first. Of equals all are on the front."""
    timed = sorted((row for row in rows if row.ms is not None), key=lambda row: (row.ms, -row.figure.value))
    found: list[Place] = []
    faster: Row | None = None
    for row in timed:
        assert row.ms is not None
        ahead = [other for other in timed if beats(other, row)]
        if ahead:
            # Of several the fastest that is itself on the front.
            first = next(other for other in ahead if not any(beats(another, other) for another in timed))
            found.append(Place(row.name, row.ms, row.figure, first.name))
            continue
        if faster is None:
            found.append(Place(row.name, row.ms, row.figure))
        else:
            assert faster.ms is not None
            bought = contest.duel(row.name, faster.name).difference
            found.append(Place(row.name, row.ms, row.figure, "", round(row.ms - faster.ms, 3), bought))
        faster = row
    return tuple(found)
