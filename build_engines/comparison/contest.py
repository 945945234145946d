"""Several answers to the same moments: each with its interval, and which differences are more than luck."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from build_engines.evaluation.rival import mcnemar
from build_engines.heads.intervals import Interval, interval, resamples
from build_engines.heads.kind import Floats, Pairs

DRAWS = 1000


class Row(Struct, frozen=True):
    """One contestant."""

    name: str
    kind: str
    """`single` modality, `fusion`, `classical` or `bundle`."""
    figure: Interval
    """What answers of this kind are compared by: macro-F1 of labels."""
    accuracy: Interval
    note: str = ""
    ms: float | None = None
    """Of a decision for which every stage runs, on this machine; None for what no device runs."""


class Duel(Struct, frozen=True):
    """Two contestants on the same moments."""

    name: str
    rival: str
    difference: Interval
    """In the figure, paired."""
    p_value: float
    """McNemar's exact test."""

    @property
    def words(self) -> str:
        """Better only if the interval excludes 0."""
        gap = self.difference
        span = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], McNemar p {self.p_value:.2g}"
        if gap.low > 0:
            return f"{self.name} beats {self.rival}: {span}"
        if gap.high < 0:
            return f"{self.name} is worse than {self.rival}: {span}"
        return f"{self.name} is not proven better than {self.rival}: {span}"


class Contest:
    """Collects contestants' answers; all are judged on the same resamples of whole groups. One thread."""

    def __init__(self, groups: Sequence[str], seed: int) -> None:
        """`groups`: of each pair that is judged."""
        self._draws = resamples(groups, DRAWS, seed)
        self._pairs: dict[str, Pairs] = {}
        self._drawn: dict[str, Floats] = {}
        self.rows: list[Row] = []

    def add(self, name: str, kind: str, pairs: Pairs, note: str = "") -> Row:
        """Judge `pairs`, in the order of the groups."""
        self._pairs[name], self._drawn[name] = pairs, pairs.bootstrap(self._draws)
        right = pairs.right().astype(float)
        accuracies = np.array([right[draw].mean() for draw in self._draws])
        scores = pairs.scores
        row = Row(name, kind, interval(scores.figure, self._drawn[name]), interval(scores.accuracy, accuracies), note)
        self.rows.append(row)
        return row

    def best(self, kind: str) -> Row | None:
        """The contestant of that kind with the highest figure."""
        return max((row for row in self.rows if row.kind == kind), key=lambda row: row.figure.value, default=None)

    def duel(self, name: str, rival: str) -> Duel:
        """The paired difference of two contestants."""
        first, second = (next(row for row in self.rows if row.name == contestant) for contestant in (name, rival))
        apart = interval(first.figure.value - second.figure.value, self._drawn[name] - self._drawn[rival])
        right = (self._pairs[contestant].right().tolist() for contestant in (name, rival))
        return Duel(name, rival, apart, mcnemar(*right)[2])
