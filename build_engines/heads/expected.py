"""What to expect of a procedure on groups that nobody has seen, from moments that were left out of its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from build_engines.heads.intervals import FEWEST_GROUPS, Interval, drawn_groups
from build_engines.heads.kind import Pairs

Rows = NDArray[np.int64]
DRAWS, PROOF_DRAWS = 500, 200
SETS = 20
"""More groups than this are left out of the promise's proof in as many sets, not one by one."""


class Expected(Struct, frozen=True):
    """A figure on new groups, from `folds` folds that leave every group of the training split out once."""

    mean: Interval
    """Expected on new groups, with its 95 % confidence interval."""
    next: Interval
    """Where the figure of the next `next_groups` groups lies, with 95 %: what one set of them happens to be like adds
    to what is not known of the mean."""
    groups: int
    folds: int
    moments: int
    next_groups: int
    fold_figures: tuple[float, ...] = ()
    foretold: int = 0
    """Of `sets` sets of its own groups, how many lay where the rest foretold (`prove`)."""
    sets: int = 0


def as_many(groups: Sequence[str], others: Sequence[str]) -> int:
    """How many of the units of `groups` (one entry a moment) a set like `others` counts for: its own groups, or, where
    these are smaller, what its moments would fill."""
    size = len(groups) / len(set(groups))
    return min(len(set(others)), max(1, round(len(others) / size)))


def prove(
    expected: Expected, pairs_of: Callable[[Rows], Pairs], groups: Sequence[str], folds: Sequence[int], seed: int
) -> Expected:
    """`expected` with the proof of its promise: each group in turn (or each of `SETS` sets of them) is left out of the
    calculation, which then says where its figure lies. `pairs_of`: some of the moments, by place.

    The other groups' models have learned from the one left out, which makes them a little better than they would be;
    where a group holds one moment, its figure is right or wrong, and sets say more.
    """
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    parts = [[names[place] for place in part] for part in np.array_split(order, min(len(names), SETS))]
    members, numbers = np.asarray(groups), np.asarray(folds)
    foretold = 0
    for part in parts if len(names) > FEWEST_GROUPS else ():
        left = np.isin(members, part)
        span = expect(pairs_of(np.flatnonzero(~left)), numbers[~left].tolist(), len(part), seed, PROOF_DRAWS).next
        foretold += span.low <= pairs_of(np.flatnonzero(left)).scores.figure <= span.high
    tried = len(parts) if len(names) > FEWEST_GROUPS else 0
    return msgspec.structs.replace(expected, foretold=int(foretold), sets=tried)


def expect(pairs: Pairs, folds: Sequence[int], next_groups: int, seed: int, draws: int = DRAWS) -> Expected:
    """From `pairs` left out (each with its group), the fold of each, and how many groups the next set has.

    The folds' models share most of what they learned from, and one model is judged on few independent groups, so that
    the usual interval over moments promises too much (Bates, Hastie and Tibshirani 2021, arXiv:2104.00673). Here, the
    variance of the mean is that of whole groups (bootstrap, times G / (G - 1)) and what folds differ beyond it, over
    their number; that of the next set adds the variance of `next_groups` groups, and of one training. Both intervals
    are Student's, with a degree of freedom less than there are groups.
    """
    from scipy.stats import t

    numbers = np.asarray(folds)
    count = len(set(pairs.groups))
    if count < 2:
        raise ValueError("an expectation for new groups needs at least two")
    parts = sorted(set(folds))
    rng = np.random.default_rng(seed)
    of_all, of_fold, of_next = (
        pairs.bootstrap(drawn_groups(pairs.groups, draws, rng, size))
        for size in (count, max(1, round(count / len(parts))), next_groups)
    )
    figures = np.array([_figure(pairs, np.flatnonzero(numbers == part)) for part in parts])
    between = max(0.0, float(figures.var(ddof=1) - of_fold.var())) if len(parts) > 1 else 0.0
    few = count / (count - 1)
    mean_variance = few * float(of_all.var()) + between / len(parts)
    next_variance = mean_variance + few * float(of_next.var()) + between
    value, spread = pairs.scores.figure, float(t.ppf(0.975, count - 1))
    # Of few groups the macro-F1 is lower, or higher, than of many of the same kind.
    middle = value + float(of_next.mean() - of_all.mean())
    return Expected(
        _around(value, value, spread * mean_variance**0.5),
        _around(value, middle, spread * next_variance**0.5),
        count, len(parts), len(pairs.groups), next_groups, tuple(round(float(figure), 6) for figure in figures),
    )  # fmt: skip


def _figure(pairs: Pairs, rows: NDArray[np.int64]) -> float:
    return float(pairs.bootstrap([rows])[0])


def _around(value: float, middle: float, half: float) -> Interval:
    return Interval(round(value, 6), round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6))
