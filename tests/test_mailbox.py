from __future__ import annotations

import threading
from collections import Counter

from edge_runtime.mailbox import RELOAD, Account, Counts, Mailbox
from edge_runtime.messages import Utterance


def put(mailbox: Mailbox, count: int = 1) -> None:
    for _ in range(count):
        mailbox.put(lambda seq: Utterance("text", seq, seq, "go"))


def balanced(counts: Counts) -> bool:
    return counts.captured == counts.decided + sum(counts.dropped.values()) + counts.in_flight


def test_it_keeps_the_newest_and_counts_what_they_replaced() -> None:
    mailbox = Mailbox(2)
    put(mailbox, 5)
    assert [message.seq for message in mailbox.take()] == [3, 4]
    counts = mailbox.counts(pending=2)
    assert (counts.captured, counts.dropped, counts.in_flight) == (5, {"replaced": 3}, 2)
    assert balanced(counts)


def test_what_comes_late_does_not_replace_what_is_newer() -> None:
    mailbox = Mailbox(2)
    for at in (30, 10, 40, 20):
        mailbox.put(lambda seq, at=at: Utterance("text", seq, at, "go"))  # type: ignore[misc]
    assert [message.captured_ns for message in mailbox.take()] == [30, 40]
    assert mailbox.counts(2).dropped == {"replaced": 2}


def test_refused_messages_count_as_captured_and_dropped() -> None:
    mailbox = Mailbox(2)
    mailbox.refuse("not_finite")
    assert balanced(mailbox.counts(0))
    assert mailbox.counts(0).dropped == {"not_finite": 1}


def test_news_of_drops_are_told_once() -> None:
    mailbox = Mailbox(1)
    put(mailbox, 3)
    mailbox.settle(0, Counter(late=1))
    assert mailbox.new_drops() == {"replaced": 2, "late": 1}
    assert mailbox.new_drops() == {}


def test_the_account_balances_while_many_threads_put() -> None:
    mailbox = Mailbox(16)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            put(mailbox)
            mailbox.refuse("bad")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            taken = mailbox.take()
            assert balanced(mailbox.counts(len(taken)))
            mailbox.settle(len(taken), Counter())
            assert balanced(mailbox.counts(0))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    numbers = [message.seq for message in mailbox.take()]
    assert numbers == sorted(numbers)


def test_an_announced_message_rings_and_counts_nothing() -> None:
    rung: list[None] = []
    mailbox = Mailbox(4, wake=lambda: rung.append(None))
    mailbox.announce(7)
    Mailbox(4).announce(7)
    assert len(rung) == 1 and mailbox.announced_ns == 7
    assert mailbox.counts(0) == Counts(0, 0, {}, 0)
    put(mailbox)
    assert mailbox.announced_ns is None, "it is there"
    mailbox.announce(8)
    mailbox.refuse("corrupt")
    assert mailbox.announced_ns is None, "it will not come"


def test_the_trigger_rings_after_the_message_is_there() -> None:
    seen: list[int] = []
    mailbox = Mailbox(4, wake=lambda: seen.append(len(mailbox.take())))
    put(mailbox)
    assert seen == [1]


def test_numbers_go_on_from_session_to_session_and_nothing_is_lost_between_them() -> None:
    account = Account()
    first = Mailbox(2, account=account)
    put(first, 5)
    assert [message.seq for message in first.take()] == [3, 4]
    put(first)
    assert first.captured == 6
    first.retire(pending=2)
    assert first.counts(0) == Counts(6, 0, {"replaced": 3, RELOAD: 3}, 0)
    assert first.take() == []
    put(first)
    assert first.counts(0) == Counts(7, 0, {"replaced": 3, RELOAD: 4}, 0), "a source thread may still hold the old box"
    second = Mailbox(2, account=account)
    put(second)
    assert [message.seq for message in second.take()] == [6]
    second.settle(1, Counter(stale=0))
    counts = second.counts(0)
    assert (counts.captured, counts.decided, counts.in_flight) == (8, 1, 0) and balanced(counts)
    assert second.new_drops() == {"replaced": 3, RELOAD: 4}


def test_a_session_that_ends_with_nothing_in_flight_drops_nothing() -> None:
    mailbox = Mailbox(2)
    mailbox.retire(pending=0)
    assert mailbox.counts(0) == Counts(0, 0, {}, 0)
    assert mailbox.new_drops() == {}


def test_what_waits_and_what_the_loop_holds_is_in_flight() -> None:
    mailbox = Mailbox(3)
    put(mailbox, 2)
    assert mailbox.counts(pending=4).in_flight == 6
    taken = mailbox.take()
    assert ([message.seq for message in taken], mailbox.take()) == ([0, 1], [])
    mailbox.settle(1, Counter(superseded=1))
    assert mailbox.counts(0) == Counts(2, 1, {"superseded": 1}, 0)
    assert mailbox.new_drops() == {"superseded": 1}


def test_a_box_holds_exactly_what_it_keeps() -> None:
    for keep in (1, 3):
        mailbox = Mailbox(keep)
        put(mailbox, keep)
        assert mailbox.counts(0).dropped == {}
        put(mailbox)
        assert mailbox.counts(0).dropped == {"replaced": 1}
        assert len(mailbox.take()) == keep


def test_parts_that_were_left_out_are_no_messages() -> None:
    mailbox = Mailbox(2)
    mailbox.refuse_part("null")
    mailbox.refuse_part("null")
    mailbox.refuse_part("not_finite")
    assert mailbox.refused_parts == {"null": 2, "not_finite": 1}
    assert mailbox.counts(0) == Counts(0, 0, {}, 0)
    assert mailbox.new_drops() == {}


def test_what_is_refused_takes_no_number_and_rings_nobody() -> None:
    rung: list[None] = []
    mailbox = Mailbox(4, wake=lambda: rung.append(None))
    mailbox.refuse("black")
    put(mailbox)
    assert ([message.seq for message in mailbox.take()], len(rung)) == ([0], 1)
    assert mailbox.captured == 2
    mailbox.retire(0)
    put(mailbox)
    assert len(rung) == 1, "a retired box wakes no loop"


def test_what_waits_is_in_order_of_capture_and_of_equals_in_order_of_arrival() -> None:
    mailbox = Mailbox(9)
    for captured_ns in (10, 30, 50, 20, 30, 40, 5):
        mailbox.put(lambda seq, captured_ns=captured_ns: Utterance("text", seq, captured_ns, "go"))
    assert [(one.captured_ns, one.seq) for one in mailbox.take()] == [
        (5, 6),
        (10, 0),
        (20, 3),
        (30, 1),
        (30, 4),
        (40, 5),
        (50, 2),
    ]


def test_what_waits_up_to_a_moment_is_dropped_for_that_reason_and_no_more() -> None:
    mailbox = Mailbox(9)
    mailbox.drop_until(99, "old")
    assert mailbox.counts(0) == Counts(0, 0, {}, 0)
    for captured_ns in (10, 20, 20, 30, 40):
        mailbox.put(lambda seq, captured_ns=captured_ns: Utterance("text", seq, captured_ns, "go"))
    mailbox.drop_until(20, "old")
    assert mailbox.counts(0) == Counts(5, 0, {"old": 3}, 2)
    assert mailbox.new_drops() == {"old": 3}
    mailbox.drop_until(29, "old")
    assert [one.captured_ns for one in mailbox.take()] == [30, 40]
