"""What a bundle made of recordings, as counts alone: they add up in any order to the same."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import accumulate, zip_longest
from typing import Any, TypeVar

from msgspec import Struct

from edge_runtime.replay import Answer

Counts = dict[str, int]
Histogram = tuple[int, ...]
"""How much fell into each bin; empty where nothing did."""
AGE_EDGES_MS = tuple(round(2 ** (step / 4), 4) for step in range(-12, 81))
"""Upper edges of the bins of ages: four an octave, from 0.125 ms to 17 minutes. Older ones fall into one more."""
CONFIDENCE_BINS = 20
_NUMBER = re.compile(r"\d+(\.\d+)?")

T = TypeVar("T", bound=Struct)


class Tally(Struct, frozen=True):
    """Of one bundle."""

    decisions: int = 0
    labels: Counts = {}
    """What was decided."""
    safe: Counts = {}
    """Why the safe decision was made, numbers left out."""
    confidence: Histogram = ()
    """Of the model's decisions, in bins of 0.05."""
    ages: dict[str, Histogram] = {}
    """Of every stream where it was present; bins by AGE_EDGES_MS."""
    absent: Counts = {}
    """Decisions that a stream was not there for."""
    as_live: int = 0
    """Decisions with the label, and from the source, that the recording has."""
    moved: Counts = {}
    """`recorded -> decided now`, where the label is another."""
    refused: Counts = {}
    """Messages of labelled moments that admission refused, by `stream reason`."""
    decided: dict[str, dict[str, Counts]] = {}
    """Of labelled moments: condition to the right label to what was decided."""
    model: dict[str, dict[str, Counts]] = {}
    """The same of the model's own answers, without the policy."""


class Bins(Struct, frozen=True):
    """A histogram by itself, to be added to others."""

    counts: Histogram


class Look(Struct, frozen=True):
    """The partial of a recording, or of several."""

    tallies: tuple[Tally, ...]
    """A bundle each."""
    cut: int = 0
    """Recordings whose end is missing: they count up to there."""
    unlabelled: int = 0
    """Recordings of which nobody has said what was right."""
    apart: Counts = {}
    """`what the first bundle decides -> what the second does`, where two do not decide the same."""


def added(one: T, other: T) -> T:
    """The two together. Commutative and associative."""
    return type(one)(
        *map(_added, *(tuple(getattr(part, name) for name in part.__struct_fields__) for part in (one, other)))
    )


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, Struct):
        return added(one, other)
    if isinstance(one, tuple):
        return tuple(map(_added, *zip(*zip_longest(one, other, fillvalue=0), strict=True))) if one or other else ()
    if isinstance(one, dict):
        return {key: _added(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
                for key in sorted({*one, *other})}  # fmt: skip
    return one + other


def total(parts: Iterable[T]) -> T:
    """Of at least one."""
    return reduce(added, parts)


class Counting:
    """Collects a Tally. One thread."""

    def __init__(self) -> None:
        self._decisions = self._as_live = 0
        self._labels: Counts = {}
        self._safe: Counts = {}
        self._confidence: list[int] = []
        self._ages: dict[str, list[int]] = {}
        self._absent: Counts = {}
        self._moved: Counts = {}

    def add(self, live: Answer, now: Answer) -> None:
        """A recorded decision, and what is said in its place."""
        self._decisions += 1
        self._as_live += (live.label, live.source) == (now.label, now.source)
        count(self._labels, now.label)
        if live.label != now.label:
            count(self._moved, f"{live.label} -> {now.label}")
        if now.source == "safe":
            count(self._safe, reason_of(now.reason))
        else:
            into(self._confidence, min(CONFIDENCE_BINS - 1, int(now.confidence * CONFIDENCE_BINS)))
        for name, state in now.inputs.items():
            if state.present and state.age_ms is not None:
                into(self._ages.setdefault(name, []), bisect_left(AGE_EDGES_MS, state.age_ms))
            else:
                count(self._absent, name)

    def tally(
        self, refused: Mapping[str, int], decided: dict[str, dict[str, Counts]], model: dict[str, dict[str, Counts]]
    ) -> Tally:
        """With what was made of the labelled moments."""
        return Tally(
            self._decisions, self._labels, self._safe, tuple(self._confidence),
            {name: tuple(bins) for name, bins in self._ages.items()}, self._absent, self._as_live, self._moved,
            dict(refused), decided, model,
        )  # fmt: skip


def reason_of(reason: str | None) -> str:
    """Why, without the numbers of the moment."""
    return _NUMBER.sub("#", reason or "")


def count(counts: Counts, key: str) -> None:
    """One more of `key`."""
    counts[key] = counts.get(key, 0) + 1


def into(bins: list[int], place: int) -> None:
    """One more in the bin number `place`."""
    bins += [0] * (place + 1 - len(bins))
    bins[place] += 1


def percentile_ms(ages: Histogram, share: float) -> float | None:
    """The upper edge of the bin up to which at least `share` (0 to 1) of the ages lie: at most 19 % too much, infinite
    beyond the last edge; None of no ages."""
    below = list(accumulate(ages))
    if not below:
        return None
    place = next(index for index, count in enumerate(below) if count >= share * below[-1] and count)
    return AGE_EDGES_MS[place] if place < len(AGE_EDGES_MS) else float("inf")
