"""Pauses grow to a longest one, differ by chance, and begin anew after a success."""

from __future__ import annotations

from edge_runtime.pauses import Pauses


def test_they_double_up_to_the_longest_with_jitter() -> None:
    pauses = Pauses(1.0, 6.0)
    for longest in (1.0, 2.0, 4.0, 6.0, 6.0):
        assert longest / 2 <= pauses.next_s() <= longest
    many = {pauses.next_s() for _ in range(20)}
    assert len(many) > 10 and min(many) >= 3.0 and max(many) <= 6.0


def test_after_a_success_they_begin_anew() -> None:
    pauses = Pauses(1.0, 6.0)
    assert pauses.untried
    for _ in range(3):
        pauses.next_s()
    assert not pauses.untried
    pauses.succeeded()
    assert pauses.untried and pauses.next_s() <= 1.0
