"""Which waiting messages call for a decision, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.session import Books, Session
from edge_runtime.streams import NS_PER_MS
from tests import tiny
from tests.conftest import tiny_config


class StillClock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.at_ns = 10_000 * NS_PER_MS

    def now_ns(self) -> int:
        return self.at_ns

    def wall_ns(self) -> int:
        return self.at_ns

    def boot_ns(self) -> int:
        return self.at_ns


def opened(bundle: Path) -> Session:
    return Session(tiny_config(bundle), StillClock(), lambda: None, Books())


@pytest.fixture
def session(tiny_bundle_path: Path) -> Iterator[Session]:
    session = opened(tiny_bundle_path)
    yield session
    session.close()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Session]:
    """Sentences call for its decisions."""
    streams = tiny.STREAMS | {"camera": msgspec.structs.replace(tiny.STREAMS["camera"], required=False)}
    session = opened(tiny.write_bundle(tmp_path / "b", trigger="text", streams=streams))
    yield session
    session.close()


def put_frame(session: Session, at_ms: int) -> None:
    image = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 200, np.uint8)
    session.mailboxes["camera"].put(lambda seq: Frame("camera", seq, at_ms * NS_PER_MS, image))


def put_text(session: Session, at_ms: int, text: str) -> None:
    session.mailboxes["text"].put(lambda seq: Utterance("text", seq, at_ms * NS_PER_MS, text, id=text))


def decided(session: Session, heartbeat_ms: int | None = None) -> list[tuple[int, str | None]]:
    """Reference in milliseconds and the newest sentence's mark, of every decision that is called for."""
    now_ns = session.intake.clock.now_ns()
    said = []
    references = session.take() if heartbeat_ms is None else [heartbeat_ms * NS_PER_MS]
    for reference_ns in references:
        outcome = session.pipeline.decide(reference_ns, now_ns, heartbeat=heartbeat_ms is not None)
        session.settle(outcome.aligned)
        newest = outcome.aligned.slices["text"].newest
        said.append((reference_ns // NS_PER_MS, newest.id if newest is not None else None))
    return said


def test_two_sentences_of_one_stamp_get_two_answers(asked: Session) -> None:
    put_text(asked, 9000, "stop")
    put_text(asked, 9000, "go on then")
    assert decided(asked) == [(9000, "stop"), (9000, "go on then")]
    assert asked.accounts()["text"].decided == 2


def test_sentences_that_come_out_of_order_are_answered_in_order(asked: Session) -> None:
    for at in (9030, 9010, 9020):
        put_text(asked, at, str(at))
    assert decided(asked) == [(9010, "9010"), (9020, "9020"), (9030, "9030")]


def test_references_never_go_backwards_and_what_is_older_is_late(session: Session) -> None:
    put_frame(session, 9900)
    assert decided(session) == [(9900, None)]
    put_frame(session, 9890)
    assert decided(session) == [], "its moment was decided"
    put_frame(session, 9930)
    assert decided(session) == [(9930, None)]
    account = session.accounts()["camera"]
    assert (account.decided, account.dropped) == (2, {"late": 1})


def test_the_newest_frame_by_capture_time_counts_not_the_last_to_arrive(session: Session) -> None:
    put_frame(session, 9950)
    put_frame(session, 9940)
    assert decided(session) == [(9950, None)]
    assert session.accounts()["camera"].dropped == {"replaced": 1}


def test_a_frame_taken_before_a_heartbeat_is_still_decided_on_with_what_was_current_then(session: Session) -> None:
    put_text(session, 9890, "stop")
    put_text(session, 9915, "go on then")
    assert decided(session) == []
    assert decided(session, heartbeat_ms=9920) == [(9920, "go on then")]
    put_frame(session, 9900)
    assert decided(session) == [(9900, "stop")]


def test_what_is_computed_ahead_is_what_the_announced_message_needs(session: Session) -> None:
    now_ns = session.intake.clock.now_ns()

    def put_sample(at_ms: int, value: float) -> None:
        at_ns = now_ns - (100 - at_ms) * NS_PER_MS
        session.mailboxes["sensors"].put(lambda seq: Sample("sensors", seq, at_ns, {"a": value, "b": 1.0}))

    for announced in (True, False):
        put_sample(10, 1.0)
        if announced:
            session.mailboxes["camera"].announce(now_ns - 60 * NS_PER_MS)
        put_sample(70, 2.0)
        assert list(session.take()) == []
        session.prefetch(now_ns)
        put_frame(session, (now_ns - 60 * NS_PER_MS) // NS_PER_MS)
        (reference_ns,) = session.take()
        outcome = session.pipeline.decide(reference_ns, now_ns)
        session.settle(outcome.aligned)
        newest = outcome.aligned.slices["sensors"].newest
        assert isinstance(newest, Sample) and newest.values["a"] == 1.0, "what the frame's time had seen"
        assert (outcome.inference.stage_ns["sensors"] == 0) is announced, "ready, or computed for another moment"
        session.pipeline.reset()
