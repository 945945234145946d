"""How sure a figure is: bootstrap over the moments that it was taken from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

FEWEST_GROUPS = 10
"""With fewer groups than this, single moments are drawn: a handful of groups says nothing about their spread."""


class Interval(Struct, frozen=True):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resamples(groups: Sequence[str], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of `count` bootstrap resamples: of whole groups where there are at least ten, for the moments of one
    episode are not independent, else of single moments (Efron and Tibshirani 1993, chapter 8)."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [np.array(part) for part in members.values()]
    if len(parts) < FEWEST_GROUPS:
        parts = [np.array([index]) for index in range(len(groups))]
    return [np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))]) for _ in range(count)]


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
        both = np.bincount(hits[draw], minlength=len(names) + 1)[: len(names)]
        occurring = count > 0
        scores[row] = float(np.mean(2 * both[occurring] / count[occurring]))
    return scores


def interval(value: float, draws: NDArray[np.float64]) -> Interval:
    """`value` with the middle 95 % of what its resamples gave."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(round(value, 6), round(float(low), 6), round(float(high), 6))
