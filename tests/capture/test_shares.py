from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.capture.shares import Share, Shares

S = 1_000_000_000


MS = 1_000_000


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


def test_one_who_sends_as_is_expected_is_heard_beside_one_who_floods() -> None:
    shares = Shares(rate_hz=80, least_hz=12.5)
    passed = {"flood": 0, "honest": 0}
    for ms in range(10_000):
        passed["flood"] += sum(shares.take("flood", ms * MS) for _ in range(4))
        passed["honest"] += ms % 100 == 0 and shares.take("honest", ms * MS)
    assert passed["honest"] == 100
    assert 300 <= passed["flood"] <= 600, "its half of 80 a second, after a first second alone"


def test_many_floods_together_leave_every_sender_the_least_part() -> None:
    shares = Shares(rate_hz=80, least_hz=12.5)
    heard = 0
    for ms in range(5_000):
        for flood in range(40):
            shares.take(flood, ms * MS)
        heard += ms % 100 == 0 and shares.take("honest", ms * MS)
    assert heard == 50


def test_whoever_has_gone_takes_no_part() -> None:
    shares = Shares(rate_hz=20, least_hz=1)
    for sender in range(1000):
        shares.take(sender, 0)
    assert sum(shares.take("last", 3000 * MS) for _ in range(50)) == 20
    assert len(shares._parts) == 1


def test_what_turns_out_to_cost_more_is_owed() -> None:
    share = Share(10.0, 0, size=3)
    assert share.take(0, cost=2.0)
    share.spend(2.0)  # 1 is owed
    assert not share.take(S // 10)
    assert not share.take(2 * S // 10 - 1)
    assert share.take(2 * S // 10)
    assert sum(share.take(100 * S) for _ in range(9)) == 3, "its size is what was said"


def test_another_rate_brings_another_size() -> None:
    share = Share(10.0, 0)
    share.resize(4.0)
    assert sum(share.take(0) for _ in range(20)) == 4
    assert sum(share.take(S) for _ in range(20)) == 4
    share.resize(0.5)
    assert sum(share.take(100 * S) for _ in range(20)) == 1


def test_what_one_sender_owes_is_no_other_s() -> None:
    shares = Shares(rate_hz=20, least_hz=1)
    assert shares.take("one", 0) and shares.take("other", 0)
    shares.spend("one", 100)
    shares.spend("nobody", 100)
    assert not shares.take("one", S)
    assert shares.take("other", S)


def test_a_part_is_kept_for_a_second_of_silence_and_parts_are_divided_anew_after_one() -> None:
    shares = Shares(rate_hz=20, least_hz=1)
    shares.take("one", 0)
    shares.take("other", 0)
    assert shares._parts["one"].rate_hz == 10
    shares.take("one", S)  # a second is not more than a second
    assert set(shares._parts) == {"one", "other"}
    shares.take("one", S + 1)
    assert set(shares._parts) == {"one"} and shares._parts["one"].rate_hz == 20
    shares.take("other", S + 2)
    shares.take("one", 2 * S + 1)
    assert set(shares._parts) == {"one", "other"}, "divided a second after the last time, not before"
    shares.take("one", 2 * S + 3)
    assert set(shares._parts) == {"one"}


def test_who_joins_has_parts_divided_anew_and_others_only_a_second_after_the_last_time() -> None:
    shares = Shares(rate_hz=20, least_hz=1)
    shares.take("one", 0)
    shares.take("other", 0)
    shares.take("third", S // 2)
    shares.take("one", S + S // 5)
    assert set(shares._parts) == {"one", "other", "third"}, "divided 0.7 s ago"
    shares.take("one", S + S // 2 + 1)
    assert set(shares._parts) == {"one"}, "the third was silent for longer than a second too"
    shares = Shares(rate_hz=20, least_hz=1)
    shares.take("one", 0)
    shares.take("other", S)
    assert set(shares._parts) == {"one", "other"}, "silent for a second, and no longer"
