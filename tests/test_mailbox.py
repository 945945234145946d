from __future__ import annotations

import threading
from collections import Counter

from edge_runtime.mailbox import Counts, Mailbox
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
    mailbox.announce()
    Mailbox(4).announce()
    assert len(rung) == 1
    assert mailbox.counts(0) == Counts(0, 0, {}, 0)


def test_the_trigger_rings_after_the_message_is_there() -> None:
    seen: list[int] = []
    mailbox = Mailbox(4, wake=lambda: seen.append(len(mailbox.take())))
    put(mailbox)
    assert seen == [1]
