"""Which waiting messages call for a decision, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.pipeline import Pipeline
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

    asleep_ns = 0

    def boot_ns(self) -> int:
        return self.at_ns + self.asleep_ns


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


class Waiting(Source):
    """Waits until it is told to stop, or to come to its end."""

    ends = True

    def __init__(self, name: str, intake: Intake, fails: bool = False) -> None:
        super().__init__(name, intake)
        self.fails = fails
        self.handed: list[Intake] = []
        self.closed = 0

    def ready(self) -> None:
        if self.fails:
            raise ConfigError(f"{self.name}: cannot be had")
        super().ready()

    def hand_over(self, intake: Intake) -> None:
        self.handed.append(intake)
        super().hand_over(intake)

    def _run(self) -> None:
        self.stopping.wait()

    def _close(self) -> None:
        self.closed += 1


class Passive(Waiting):
    passive = True


def of(bundle: Path, sources: Sequence[Source], running: Session | None = None, **more: Any) -> Session:
    """A session whose configuration opens these sources."""
    kept = running.sources if running is not None else ()
    books = running._books if running is not None else Books()
    config = tiny_config(bundle)
    return Session(
        config, StillClock(), lambda: None, books, running=kept, open_sources=lambda *_: list(sources), **more
    )


def intake_of(tiny_bundle_path: Path) -> Intake:
    session = of(tiny_bundle_path, [])
    session.close()
    return session.intake


def test_a_source_that_is_kept_goes_on_and_one_that_is_not_is_stopped(tiny_bundle_path: Path) -> None:
    intake = intake_of(tiny_bundle_path)
    kept, left, new = (Waiting(name, intake) for name in ("kept", "left", "new"))
    first = of(tiny_bundle_path, [kept, left])
    first.start()
    assert not kept.handed, "started, not handed over"
    second = of(tiny_bundle_path, [kept, new], running=first)
    assert (kept.handed, first.ended, new.ended) == ([], False, False), "until it starts all goes on as it is"
    second.start()
    assert kept.handed == [second.intake] and kept._intake is second.intake
    first.retire()
    first.close(second)
    assert (left.closed, left.ended, kept.closed, kept.ended, new.ended) == (1, True, 0, False, False)
    second.close()
    assert (kept.closed, new.closed) == (1, 1)


def test_what_never_started_leaves_the_running_one_as_it_was(tiny_bundle_path: Path) -> None:
    intake = intake_of(tiny_bundle_path)
    kept, new, bad = Waiting("kept", intake), Waiting("new", intake), Waiting("bad", intake, fails=True)
    first = of(tiny_bundle_path, [kept])
    first.start()
    with pytest.raises(ConfigError, match="bad: cannot be had"):
        of(tiny_bundle_path, [kept, new, bad], running=first)
    assert (kept.ended, kept.stopping.is_set(), new.closed, bad.closed) == (False, False, 1, 1)
    other = Waiting("other", intake)
    of(tiny_bundle_path, [kept, other], running=first).abandon()
    assert (kept.ended, kept.stopping.is_set(), kept.handed, other.closed) == (False, False, [], 1)
    first.stop_sources()
    assert (kept.ended, kept.closed, first.ended) == (True, 1, True)
    first.close()


def test_a_frozen_camera_stays_frozen_for_the_session_after_and_for_the_one_that_goes_on(
    tiny_bundle_path: Path, tmp_path: Path
) -> None:
    image = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 200, np.uint8)

    def refused(session: Session, frames: int) -> int:
        before = session.intake.refusals("camera")["frozen"]
        for _ in range(frames):
            session.intake.frame("camera", image)
        return session.intake.refusals("camera")["frozen"] - before

    limit = tiny.STREAMS["camera"].frozen_after  # type: ignore[union-attr]
    first = of(tiny_bundle_path, [])
    first.start()
    assert refused(first, limit + 3) == 3
    of(tiny_bundle_path, [], running=first).abandon()
    assert refused(first, 2) == 2, "an attempt that came to nothing has forgotten nothing"
    second = of(tiny_bundle_path, [], running=first)
    second.start()
    first.close(second)
    assert refused(second, 5) == 5
    streams = tiny.STREAMS | {"camera": msgspec.structs.replace(tiny.STREAMS["camera"], frozen_after=limit + 1)}
    other = of(tiny.write_bundle(tmp_path / "other", streams=streams), [], running=second)
    other.start()
    second.close(other)
    assert refused(other, limit + 3) == 2, "other pixels are looked at anew"
    other.close()


def test_the_engines_of_what_is_refused_abandoned_or_over_are_freed(
    tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Pipeline] = []
    close = Pipeline.close

    def noted(pipeline: Pipeline) -> None:
        closed.append(pipeline)
        close(pipeline)

    monkeypatch.setattr(Pipeline, "close", noted)
    intake = intake_of(tiny_bundle_path)
    assert len(closed) == 1
    first = of(tiny_bundle_path, [])
    with pytest.raises(ConfigError):
        of(tiny_bundle_path, [Waiting("bad", intake, fails=True)], running=first)
    assert len(closed) == 2
    second = of(tiny_bundle_path, [], running=first)
    second.abandon()
    assert closed[2:] == [second.pipeline]
    third = of(tiny_bundle_path, [], running=first)
    first.close(third)
    assert closed[3:] == [first.pipeline]
    third.close()
    assert closed[4:] == [third.pipeline]


class Slow(Waiting):
    """Takes its time to stop, by a still clock; notes how long it is waited for, and who had been told by then."""

    def __init__(self, name: str, intake: Intake, takes_ms: int) -> None:
        super().__init__(name, intake)
        self.takes_ms = takes_ms
        self.all: Sequence[Source] = ()
        self.waited_s: list[float] = []
        self.told: list[bool] = []
        self.clock = StillClock()

    def stop(self, timeout_s: float = 1.0) -> None:
        self.waited_s.append(timeout_s)
        self.told = [other.stopping.is_set() for other in self.all]
        super().stop()
        self.clock.at_ns += self.takes_ms * NS_PER_MS


def test_all_sources_are_told_to_stop_before_any_is_waited_for_and_together_for_a_second(
    tiny_bundle_path: Path,
) -> None:
    intake = intake_of(tiny_bundle_path)
    sources = [Slow(name, intake, takes_ms) for name, takes_ms in (("one", 700), ("other", 600), ("last", 0))]
    session = of(tiny_bundle_path, sources)
    session.start()
    clock = session._clock
    assert isinstance(clock, StillClock)
    for source in sources:
        source.all, source.clock = sources, clock
    session.close()
    assert [source.waited_s for source in sources] == [[1.0], [pytest.approx(0.3)], [0.0]]
    assert [source.told for source in sources] == [[True] * 3] * 3


def test_the_end_is_where_no_source_has_more_and_passive_ones_count_only_alone(tiny_bundle_path: Path) -> None:
    intake = intake_of(tiny_bundle_path)
    one, other, socket = Waiting("one", intake), Waiting("other", intake), Passive("socket", intake)
    session = of(tiny_bundle_path, [one, other, socket])
    session.start()
    assert not session.ended
    one.stop()
    assert not session.ended
    other.stop()
    assert session.ended
    session.close()
    alone = of(tiny_bundle_path, [lone := Passive("socket", intake)])
    alone.start()
    assert not alone.ended
    lone.stop()
    assert alone.ended
    alone.close()


def test_a_stream_is_alive_as_long_as_its_maximum_age(session: Session) -> None:
    assert not session.alive("camera", 0)
    put_frame(session, 9000)
    decided(session)
    last = 9300 * NS_PER_MS
    assert (session.alive("camera", last), session.alive("camera", last + 1)) == (True, False)
    assert not session.alive("text", last)


def test_the_accounts_rates_and_drops_are_told_by_stream(session: Session) -> None:
    session.health(0)
    for at_ms in (9900, 9910, 9920):
        put_frame(session, at_ms)
    put_text(session, 9900, "go on then")
    put_text(session, 9901, "stop")
    session.mailboxes["sensors"].refuse("null")
    session.mailboxes["sensors"].refuse_part("null")
    before = session.accounts()
    assert (before["camera"].in_flight, before["text"].in_flight) == (1, 2)
    assert decided(session) == [(9920, "stop")]
    health = session.health(10_000 * NS_PER_MS)
    camera, text, sensors = health["camera"], health["text"], health["sensors"]
    assert (camera.captured, camera.decided, camera.dropped, camera.in_flight) == (3, 1, {"replaced": 2}, 0)
    assert (text.captured, text.decided, text.dropped) == (2, 1, {"superseded": 1})
    assert (sensors.captured, sensors.dropped, sensors.refused_values) == (1, {"null": 1}, {"null": 1})
    assert (camera.rate_hz, text.rate_hz, camera.expected_hz) == (0.3, 0.2, 30)
    assert (camera.alive, sensors.alive) == (True, False)
    assert session.new_drops() == {"replaced": 2, "superseded": 1, "null": 1}
    assert session.new_drops() == {}


def test_every_message_is_shown_in_the_order_it_is_taken(tiny_bundle_path: Path) -> None:
    shown: list[str] = []
    session = of(tiny_bundle_path, [], tap=lambda message: shown.append(message.stream))
    put_frame(session, 9900)
    put_text(session, 9950, "go on then")
    assert decided(session) == [(9900, None)]
    assert shown == ["text", "camera"], "what calls for the decision comes last"
    session.close()


def test_what_still_waits_when_another_takes_over_is_counted_and_so_are_restarts(tiny_bundle_path: Path) -> None:
    first = of(tiny_bundle_path, [])
    put_frame(first, 9900)
    list(first.take())
    put_frame(first, 9950)
    put_text(first, 9950, "go on then")
    first.pipeline.engine_restarts = 2
    assert first.engine_restarts == 2
    second = of(tiny_bundle_path, [], running=first)
    assert second.engine_restarts == 0
    first.retire()
    assert second.engine_restarts == 2
    assert first.accounts()["camera"].dropped == {"reload": 2}
    counts = second.accounts()
    assert (counts["camera"].captured, counts["camera"].dropped, counts["camera"].in_flight) == (2, {"reload": 2}, 0)
    assert (counts["text"].dropped, counts["sensors"].dropped) == ({"reload": 1}, {})
    first.close(second)
    second.close()


def test_the_trigger_and_what_can_be_computed_ahead_ring_the_loop(tiny_bundle_path: Path) -> None:
    rung: list[None] = []
    session = Session(tiny_config(tiny_bundle_path), StillClock(), lambda: rung.append(None), Books())
    for number, put in enumerate((put_frame, lambda at, ms: put_text(at, ms, "go")), 1):
        put(session, 9900)
        assert len(rung) == number
    assert (session.trigger, session.each_answered, session.heartbeat_ns) == ("camera", False, 200 * NS_PER_MS)
    assert session.period_ms == pytest.approx(1000 / 30)
    assert session.bundle_id.digest == session.bundle.digest and session.bundle_id.name == "tiny"
    assert len(session.endpoints) == 1 and session.endpoints[0].startswith("tcp://127.0.0.1:")
    assert session.unrouted == {}
    session.close()


def test_after_sleep_nothing_captured_before_counts_and_the_accounts_hold(session: Session) -> None:
    clock = session.intake.clock
    assert isinstance(clock, StillClock)
    put_text(session, 9990, "stop")
    assert decided(session) == []  # taken, and waits for a frame
    put_frame(session, 9995)  # waits in its box
    assert not session.woke()
    clock.asleep_ns += 3_600_000 * NS_PER_MS
    assert session.woke()
    assert not session.woke(), "said once"
    assert decided(session) == []
    # What a sender stamped before the machine slept and sends now is an hour old.
    image = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 200, np.uint8)
    session.intake.frame("camera", image, captured_ns=9995 * NS_PER_MS)
    clock.at_ns += 10 * NS_PER_MS
    session.intake.frame("camera", image + 1, captured_ns=clock.at_ns)
    assert decided(session) == [(10_010, None)]
    accounts = session.accounts()
    assert accounts["text"].dropped == {"slept": 1}
    assert accounts["camera"].dropped == {"slept": 1, "bad_timestamp": 1}
    assert (accounts["camera"].captured, accounts["camera"].decided) == (3, 1)
