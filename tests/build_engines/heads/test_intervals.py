"""The bootstrap: scikit-learn's figure for every resample, whole groups, and speed enough for every report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from build_engines.heads.intervals import bootstrap, interval, resamples

PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=40)


@given(PAIRS, st.integers(0, 9))
def test_each_resample_has_the_macro_f1_of_scikit_learn(pairs: list[tuple[str, str]], seed: int) -> None:
    truth, answers = [one for one, _ in pairs], [other for _, other in pairs]
    draws = resamples([str(index) for index in range(len(pairs))], 5, seed)
    expected = [
        f1_score([truth[i] for i in draw], [answers[i] for i in draw], average="macro", zero_division=0)
        for draw in draws
    ]
    assert bootstrap(truth, answers, draws) == pytest.approx(expected, abs=1e-12)


def test_groups_are_drawn_whole_where_there_are_enough() -> None:
    groups = [f"g{index // 3}" for index in range(36)]
    for draw in resamples(groups, 20, 1):
        counts = np.bincount(draw, minlength=36).reshape(12, 3)
        assert len(draw) == 36
        assert (counts == counts[:, :1]).all()
    few = resamples(["a"] * 18 + ["b"] * 18, 20, 1)
    assert any((np.bincount(draw, minlength=36) == 1).any() for draw in few)


def test_resamples_are_reproducible_and_the_interval_covers_their_middle() -> None:
    groups = [str(index) for index in range(200)]
    first, again = resamples(groups, 50, 7), resamples(groups, 50, 7)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    found = interval(0.5, np.linspace(0, 1, 1001))
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
