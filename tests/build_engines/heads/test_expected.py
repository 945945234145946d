"""The promise: how often the figure of a new set of groups lies where the interval says, simulated."""

from __future__ import annotations

import numpy as np
import pytest

from build_engines.heads.expected import as_many, expect, prove
from build_engines.heads.intervals import drawn_groups, independent, interval, resamples
from build_engines.heads.labelled import LabelPairs

SIZE, FOLDS = 30, 4


def procedure(rng: np.random.Generator, groups: int, folds: int, differ: float = 0.12) -> tuple[LabelPairs, list[int]]:
    """Answers to groups that differ in how hard they are, by a model per fold, of which some are luckier."""
    skill = rng.normal(0.0, 0.05, folds)
    truth, answers, names, places = [], [], [], []
    for group in range(groups):
        right = np.clip(0.75 + rng.normal(0.0, differ) + skill[group % folds], 0.05, 0.98)
        labels = rng.integers(0, 2, SIZE)
        said = np.where(rng.random(SIZE) < right, labels, 1 - labels)
        truth += [str(label) for label in labels]
        answers += [str(label) for label in said]
        names += [f"g{group}"] * SIZE
        places += [group % folds] * SIZE
    return LabelPairs(truth, answers, ["0", "1"], names), places


def test_the_next_groups_lie_in_the_interval_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    inside = narrow = 0
    for _ in range(40):
        pairs, folds = procedure(rng, 12, FOLDS)
        found = expect(pairs, folds, 5, 0, draws=100)
        fresh, _ = procedure(rng, 5, 1)
        figure = fresh.scores.figure
        inside += found.next.low <= figure <= found.next.high
        moments = interval(0.0, pairs.bootstrap(resamples([str(i) for i in range(12 * SIZE)], 50, 0)))
        narrow += moments.low <= figure <= moments.high
    assert inside >= 34  # 0.95 of 40 less three deviations
    assert narrow < 28  # what intervals over single moments promise at the same 95 %


def test_the_mean_s_interval_is_narrower_and_both_hold_the_figure() -> None:
    pairs, folds = procedure(np.random.default_rng(1), 16, FOLDS)
    found = expect(pairs, folds, 4, 0)
    assert found.mean.value == found.next.value == pytest.approx(pairs.scores.figure, abs=1e-6)
    assert found.next.low < found.mean.low < found.mean.value < found.mean.high < found.next.high
    assert (found.groups, found.folds, found.moments, found.next_groups) == (16, FOLDS, 16 * SIZE, 4)
    assert len(found.fold_figures) == FOLDS
    assert expect(pairs, folds, 4, 0) == found


def test_one_group_promises_nothing() -> None:
    with pytest.raises(ValueError, match="at least two"):
        expect(LabelPairs(["0", "1"], ["0", "1"], ["0", "1"], ["a", "a"]), [0, 1], 2, 0)


def test_a_draw_holds_whole_groups_and_as_many_as_were_asked_for() -> None:
    groups = [f"g{index // 3}" for index in range(36)]
    for draw in drawn_groups(groups, 20, np.random.default_rng(0), 5):
        assert len(draw) == 15
        assert (np.bincount(draw, minlength=36).reshape(12, 3).std(axis=1) == 0).all()
    assert independent(groups) == 12
    assert independent(["a"] * 4 + ["b"] * 4) == 8


def test_few_groups_widen_the_interval() -> None:
    draws = np.linspace(0, 1, 100_001)
    plain, many, few = (interval(0.5, draws, groups) for groups in (None, 1000, 5))
    assert (many.low, many.high) == (pytest.approx(plain.low, abs=1e-3), pytest.approx(plain.high, abs=1e-3))
    # Hesterberg 2015, table of alpha/2 for n = 5: 0.0010.
    assert few.low == pytest.approx(0.0010, abs=2e-4)
    assert few.high == pytest.approx(1 - few.low, abs=1e-6)


def test_the_promise_is_tried_on_its_own_groups() -> None:
    pairs, folds = procedure(np.random.default_rng(2), 12, FOLDS, differ=0.0)

    def some(rows: np.ndarray) -> LabelPairs:
        picked = ([values[row] for row in rows] for values in (pairs.truth, pairs.predicted, pairs.groups))
        truth, predicted, groups = picked
        return LabelPairs(truth, predicted, pairs.labels, groups)

    found = prove(expect(pairs, folds, 4, 0), some, pairs.groups, folds, 0)
    assert found.sets == 12
    assert found.foretold >= 10
    # A group that is nothing like the others is not foretold.
    odd = np.array(pairs.predicted)
    strange = np.asarray(pairs.groups) == "g3"
    odd[strange] = np.where(np.asarray(pairs.truth)[strange] == "0", "1", "0")
    pairs = LabelPairs(pairs.truth, odd.tolist(), pairs.labels, pairs.groups)
    worse = prove(expect(pairs, folds, 4, 0), some, pairs.groups, folds, 0)
    assert worse.foretold < worse.sets


def test_a_set_counts_for_groups_as_large_as_those_left_out() -> None:
    drives = ["a"] * 200 + ["b"] * 200
    assert as_many(drives, ["c"] * 150 + ["d"] * 250) == 2
    assert as_many(drives, ["c"] * 900) == 1
    assert as_many(drives, [str(index) for index in range(1000)]) == 5
    assert as_many(drives, ["c"]) == 1
    assert as_many([str(index) for index in range(50)], [str(index) for index in range(20)]) == 20
