"""How sure a figure is: bootstrap over the moments that it was taken from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

FEWEST_GROUPS = 3
"""With fewer groups than this, single moments are drawn: a pair of groups says nothing about their spread."""


class Interval(Struct, frozen=True):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resamples(groups: Sequence[str], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of `count` bootstrap resamples: of whole groups where there are at least three, for the moments of one
    episode are not independent, else of single moments (Efron and Tibshirani 1993, chapter 8)."""
    units = _units(groups)
    return drawn_groups(units, count, np.random.default_rng(seed), len(set(units)))


def independent(groups: Sequence[str]) -> int:
    """How many units `resamples` draws from."""
    return len(set(_units(groups)))


def _units(groups: Sequence[str]) -> Sequence[str]:
    return groups if len(set(groups)) >= FEWEST_GROUPS else [str(index) for index in range(len(groups))]


def drawn_groups(groups: Sequence[str], count: int, rng: np.random.Generator, size: int) -> list[NDArray[np.int64]]:
    """Indices of `count` draws of `size` whole groups each, with replacement."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [np.array(part) for part in members.values()]
    return [np.concatenate([parts[i] for i in rng.integers(len(parts), size=size)]) for _ in range(count)]


def bootstrap(truth: Sequence[str], answers: Sequence[str], draws: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[draws] macro-F1 of each resample, over the labels that occur in it.

    What scikit-learn's `f1_score(average="macro", zero_division=0)` gives (held by a test), from counts: F1 of a label
    is 2 * right / (said + true).
    """
    names = {name: index for index, name in enumerate(sorted({*truth, *answers}))}
    right = np.array([names[name] for name in truth], np.int64)
    predicted = np.array([names[name] for name in answers], np.int64)
    hits = np.where(right == predicted, right, len(names))
    scores = np.empty(len(draws))
    for row, draw in enumerate(draws):
        count = np.bincount(right[draw], minlength=len(names)) + np.bincount(predicted[draw], minlength=len(names))
        scores[row] = macro_f1(np.bincount(hits[draw], minlength=len(names) + 1)[: len(names)], count)
    return scores


def macro_f1(right: NDArray[np.int64], count: NDArray[np.int64]) -> float:
    """Over the labels that occur. Of each ([labels]): how often it was said rightly, and how often it was said plus how
    often it was true."""
    occurring = count > 0
    return float(np.mean(2 * right[occurring] / count[occurring]))


def interval(value: float, draws: NDArray[np.float64], groups: int | None = None) -> Interval:
    """`value` with the middle 95 % of what its resamples gave; more of them where they were of few `groups`, whose
    spread a bootstrap takes for too small (the expanded percentile interval: Hesterberg 2015, arXiv:1411.5279)."""
    tail = 0.025
    if groups is not None and groups > 1:
        from scipy.stats import norm, t

        tail = float(norm.cdf(-((groups / (groups - 1)) ** 0.5) * t.ppf(0.975, groups - 1)))
    low, high = np.percentile(draws, (100 * tail, 100 * (1 - tail)))
    return Interval(round(value, 6), round(float(low), 6), round(float(high), 6))
