from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.capture.shares import Share

S = 1_000_000_000


def test_a_second_s_worth_at_once_then_the_rate() -> None:
    share = Share(5.0, 0)
    assert [share.take(0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [share.take(S // 5), share.take(S // 5)] == [True, False]
    assert sum(share.take(10 * S) for _ in range(20)) == 5


def test_a_rate_below_one_lets_one_through() -> None:
    share = Share(0.5, 0)
    assert [share.take(0), share.take(S), share.take(2 * S)] == [True, False, True]


@given(
    st.floats(0.1, 100),
    st.lists(st.integers(-S, S), min_size=1, max_size=200),
)
def test_never_more_than_the_size_and_the_rate_allow_whatever_the_clock_does(rate: float, steps: list[int]) -> None:
    share, now, newest, passed = Share(rate, 0), 0, 0, 0
    for step in steps:
        now += step
        newest = max(newest, now)
        passed += share.take(now)
    assert passed <= max(1.0, rate) + rate * newest / S + 1e-6
