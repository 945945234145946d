"""Several answers to the same moments: each with its interval, and which differences are more than luck."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from build_engines.evaluation.rival import mcnemar
from build_engines.heads.intervals import Interval, bootstrap, interval, resamples
from build_engines.heads.metrics import score

DRAWS = 1000


class Row(Struct, frozen=True):
    """One contestant."""

    name: str
    kind: str
    """`single` modality, `fusion` or `classical`."""
    f1_macro: Interval
    accuracy: Interval
    note: str = ""


class Duel(Struct, frozen=True):
    """Two contestants on the same moments."""

    name: str
    rival: str
    difference: Interval
    """In macro-F1, paired."""
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

    def __init__(self, truth: Sequence[str], groups: Sequence[str], labels: Sequence[str], seed: int) -> None:
        self._truth, self._labels = list(truth), labels
        self._draws = resamples(groups, DRAWS, seed)
        self._answers: dict[str, list[str]] = {}
        self._f1: dict[str, np.ndarray] = {}
        self.rows: list[Row] = []

    def add(self, name: str, kind: str, answers: Sequence[str], note: str = "") -> Row:
        """Judge `answers`, one per moment."""
        self._answers[name] = list(answers)
        self._f1[name] = bootstrap(self._truth, answers, self._draws)
        scores = score(self._truth, answers, self._labels)
        right = self._right(name).astype(float)
        accuracies = np.array([right[draw].mean() for draw in self._draws])
        row = Row(name, kind, interval(scores.f1_macro, self._f1[name]), interval(scores.accuracy, accuracies), note)
        self.rows.append(row)
        return row

    def best(self, kind: str) -> Row | None:
        """The contestant of that kind with the highest macro-F1."""
        return max((row for row in self.rows if row.kind == kind), key=lambda row: row.f1_macro.value, default=None)

    def duel(self, name: str, rival: str) -> Duel:
        """The paired difference of two contestants."""
        first, second = (next(row for row in self.rows if row.name == contestant) for contestant in (name, rival))
        apart = interval(first.f1_macro.value - second.f1_macro.value, self._f1[name] - self._f1[rival])
        return Duel(name, rival, apart, mcnemar(self._right(name).tolist(), self._right(rival).tolist())[2])

    def _right(self, name: str) -> np.ndarray:
        return np.array([a == b for a, b in zip(self._answers[name], self._truth, strict=True)])
