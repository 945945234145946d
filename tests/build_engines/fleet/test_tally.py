"""Partials add up to the same in any order, and what is read off them is what the single values say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.fleet.tally import AGE_EDGES_MS, Look, Tally, added, into, percentile_ms, reason_of, total
from build_engines.fleet.task import encoded

COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3)
BINS = st.lists(st.integers(0, 9), max_size=3).map(tuple)
TABLE = st.dictionaries(st.sampled_from(["", "wet"]), st.dictionaries(st.sampled_from("ab"), COUNTS, max_size=2))
TALLY = st.builds(
    Tally, st.integers(0, 9), COUNTS, COUNTS, BINS, st.dictionaries(st.sampled_from("xy"), BINS), COUNTS,
    st.integers(0, 9), COUNTS, COUNTS, TABLE, TABLE,
)  # fmt: skip
LOOK = st.builds(Look, st.tuples(TALLY, TALLY), st.integers(0, 1), st.integers(0, 1), COUNTS)


@given(st.lists(LOOK, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_in_which_partials_are_put_together_makes_no_difference(looks: list[Look], rng: object) -> None:
    other = list(looks)
    rng.shuffle(other)  # type: ignore[attr-defined]
    assert encoded(total(looks)) == encoded(total(other))
    if len(looks) > 2:
        by_halves = added(total(looks[:2]), total(looks[2:]))
        assert encoded(by_halves) == encoded(total(looks))
    assert total(looks).tallies[0].decisions == sum(look.tallies[0].decisions for look in looks)


@given(st.lists(st.floats(0.2, 5e5), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_of_binned_ages_is_at_most_a_bin_too_high(ages: list[float], share: float) -> None:
    bins: list[int] = []
    for age in ages:
        into(bins, int(np.searchsorted(AGE_EDGES_MS, age)))
    found = percentile_ms(tuple(bins), share)
    exact = float(np.quantile(ages, share, method="inverted_cdf"))
    assert found is not None
    assert exact <= found <= exact * 2**0.25 * 1.001


def test_what_is_beyond_the_last_edge_has_no_edge_and_of_nothing_there_is_none() -> None:
    assert percentile_ms((*[0] * len(AGE_EDGES_MS), 1), 0.5) == float("inf")
    assert percentile_ms((), 0.5) is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("confidence 0.31 below 0.4", "confidence # below #"), ("camera stale", "camera stale"), (None, "")],
)
def test_reasons_are_counted_without_their_numbers(reason: str | None, expected: str) -> None:
    assert reason_of(reason) == expected
