"""The choice of calibration moments: reproducible, spread, nothing twice, nothing that is evaluated."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.select import Signature, choose, narrowness, without_evaluated
from edge_runtime.errors import GateRefused, UserError

MOMENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3), st.integers(0, 30)),
    min_size=1,
    max_size=60,
).map(
    lambda rows: [
        Signature(index, f"m{index}", f"g{group}", label, condition, f"{label}{condition}{group}{digest}")
        for index, (label, condition, group, digest) in enumerate(rows)
    ]
)


@given(MOMENTS, st.integers(1, 40), st.integers(0, 5))
def test_it_is_reproducible_in_order_and_without_repeats(moments: list[Signature], count: int, seed: int) -> None:
    chosen = choose(moments, count, seed)
    assert chosen == choose(moments, count, seed)
    assert [one.index for one in chosen] == sorted(one.index for one in chosen)
    assert len({one.digest for one in chosen}) == len(chosen)
    assert len(chosen) == min(count, len({one.digest for one in moments}))


@given(MOMENTS, st.integers(1, 40))
def test_no_stratum_is_taken_twice_while_another_waits(moments: list[Signature], count: int) -> None:
    distinct = {one.digest: one for one in moments}.values()
    there = Counter((one.label, one.condition) for one in distinct)
    taken = Counter((one.label, one.condition) for one in choose(moments, count, 0))
    most = max(taken.values())
    for stratum, number in there.items():
        assert taken[stratum] >= min(number, most - 1)


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(UserError, match="no labelled moment"):
        choose([], 3, 0)


def test_moments_in_both_splits_are_left_out_and_counted_and_many_are_a_leak() -> None:
    evaluated = [Signature(index, f"val/{index}", "", "a", "", f"digest {index}") for index in range(50)]
    own = [Signature(index, f"train/{index}", "", "a", "", f"own {index}") for index in range(98)]
    twice = [Signature(98 + index, f"train/{98 + index}", "", "a", "", f"digest {index}") for index in range(2)]
    assert without_evaluated([*own, *twice], evaluated, 0.04) == (own, 2)
    assert without_evaluated(own, evaluated, 0.0) == (own, 0)
    with pytest.raises(GateRefused, match=r"2 of 100 .* the 50 .*train/98 equals val/0, and 1 more.*4\.0%.*= 0\.03"):
        without_evaluated([*own, *twice], evaluated, 0.03)
    # A small evaluation split that is wholly contained is a leak, however large the other is.
    with pytest.raises(GateRefused, match="100.0%"):
        without_evaluated([*own, *twice], evaluated[:2], 0.1)


def _moments(*rows: tuple[str, str]) -> list[Signature]:
    return [Signature(index, f"m{index}", "", label, "", digest) for index, (label, digest) in enumerate(rows)]


def test_one_moment_or_one_label_over_and_over_is_refused_and_a_single_one_that_is_evaluated_is_not() -> None:
    evaluation = _moments(("a", "x"), ("b", "y"))
    stuck = _moments(*[("a", "same")] * 9)
    with pytest.raises(GateRefused, match="its 9 moments are only one, m8, over and over; check the data"):
        narrowness(stuck, choose(stuck, 5, 0), evaluation)
    one_label = _moments(("a", "1"), ("a", "2"), ("a", "3"))
    with pytest.raises(GateRefused, match="all its moments are of one label, a, of the 2 that are evaluated; check"):
        narrowness(one_label, one_label, evaluation)
    single = _moments(("a", "one"))
    assert narrowness(single, single, evaluation[:1]) == []


def test_labels_that_are_missing_and_many_doubles_are_said() -> None:
    evaluation = _moments(("a", "x"), ("b", "y"), ("c", "z"))
    few = _moments(("a", "1"), ("b", "2"), ("c", "3"))
    assert narrowness(few, few, evaluation) == []
    assert narrowness(few, few[:2], evaluation) == ["no moment of the labels c, which are evaluated"]
    hanging = few + _moments(*[("a", "1")] * 10)
    assert narrowness(hanging, few, evaluation) == ["only 3 of its 13 moments differ"]
