"""What the intake counts and says: every message once, under its stream and reason; trouble once per change."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.admit import Refusal
from edge_runtime.capture.intake import LOG_LINES, Intake, Unrouted
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.streams import NS_PER_MS, StreamSpec, kind_of
from tests import tiny
from tests.conftest import jpeg, noise
from tests.test_session import StillClock

STREAMS: dict[str, StreamSpec] = {
    name: msgspec.structs.replace(spec, **({"frozen_after": 0} if name == "camera" else {}))
    for name, spec in tiny.STREAMS.items()
}


class Gate:
    """An intake with its mailboxes, by a clock that a test moves."""

    def __init__(self, **more: Any) -> None:
        self.clock = StillClock()
        self.boxes = {name: Mailbox(4) for name in STREAMS}
        self.intake = Intake(STREAMS, self.boxes, self.clock, **more)

    def taken(self, stream: str) -> list[Message]:
        return self.boxes[stream].take()

    def account(self, stream: str) -> tuple[int, dict[str, int]]:
        counts = self.boxes[stream].counts(0)
        return counts.captured, counts.dropped


@pytest.fixture
def gate() -> Gate:
    return Gate()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = list(caplog.messages)
    caplog.clear()
    return found


def test_each_way_in_makes_a_message_of_its_stream_with_its_stamp_and_mark(gate: Gate) -> None:
    at_ns = 9_990 * NS_PER_MS
    picture = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 90, np.uint8)
    gate.intake.frame("camera", picture, at_ns, "f")
    gate.intake.jpeg("camera", jpeg(noise(90, 1)), at_ns + 1, "j")
    gate.intake.sample("sensors", {"a": 2.0}, at_ns + 2, "s")
    gate.intake.text("text", "stop", "en", at_ns + 3, "t")
    frame, decoded = gate.taken("camera")
    assert isinstance(frame, Frame) and np.array_equal(frame.image, picture)
    assert isinstance(decoded, Frame) and decoded.encoded is not None
    assert [(one.captured_ns, one.id, one.seq) for one in (frame, decoded)] == [(at_ns, "f", 0), (at_ns + 1, "j", 1)]
    (sample,), (words,) = gate.taken("sensors"), gate.taken("text")
    assert isinstance(sample, Sample) and isinstance(words, Utterance)
    assert (dict(sample.values), sample.captured_ns, sample.id) == ({"a": 2.0}, at_ns + 2, "s")
    assert (words.text, words.lang, words.captured_ns, words.id) == ("stop", "en", at_ns + 3, "t")
    gate.intake.text("text", "stop")
    assert gate.taken("text")[0].captured_ns == gate.clock.now_ns(), "without a stamp the arrival counts"
    assert gate.intake.unrouted_counts() == {}


def test_what_has_no_stream_or_not_its_stream_s_content_is_counted_apart(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.intake.text("nowhere", "stop")
    gate.intake.sample("camera", {"a": 1.0})
    gate.intake.unrouted("malformed", "x" * 500)
    assert gate.intake.unrouted_counts() == {"unknown_stream": 2, "malformed": 1}
    assert [gate.account(name) for name in STREAMS] == [(0, {})] * 3
    first, second = lines(caplog)
    assert first == "input: refusing messages: unknown_stream nowhere"
    assert second == f"input: refusing messages: malformed {'x' * 200}"


def test_counts_of_what_has_no_stream_outlive_the_intake() -> None:
    books = Unrouted()
    assert [books.add("malformed"), books.add("malformed"), books.add("too_big")] == [True, False, True]
    gate = Gate(unrouted=books)
    gate.intake.unrouted("malformed")
    assert gate.intake.unrouted_counts() == books.counts() == {"malformed": 3, "too_big": 1}


def test_what_is_refused_is_counted_under_its_stream_and_said_once_per_change(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        gate.intake.jpeg("camera", b"\xff\xd8 no picture")
    gate.intake.frame("camera", np.zeros((tiny.HEIGHT, tiny.WIDTH, 3), np.uint8))
    assert gate.account("camera") == (4, {"corrupt": 3, "black": 1})
    assert gate.intake.refusals("camera") == {"corrupt": 3, "black": 1}
    assert gate.intake.refusals("text") == {}
    first, second = lines(caplog)
    assert first.startswith("camera: refusing messages: corrupt ")
    assert second.startswith("camera: refusing messages: black")
    for seed in range(2):
        gate.intake.frame("camera", noise(90, seed))
    assert lines(caplog) == ["camera: messages are good again"]
    gate.intake.refuse("camera", Refusal("over_rate", "30 a second"))
    assert lines(caplog) == ["camera: refusing messages: over_rate 30 a second"], "after good ones it is a change again"
    gate.intake.replaced("camera")
    assert gate.account("camera") == (8, {"corrupt": 3, "black": 1, "over_rate": 1, "replaced": 1})
    assert (lines(caplog), gate.intake.refusals("camera")["replaced"]) == ([], 0), "no trouble"


def test_a_stamp_that_cannot_be_is_refused_before_anything_is_looked_at(gate: Gate) -> None:
    gate.intake.jpeg("camera", b"no picture", gate.clock.now_ns() + 3_600_000 * NS_PER_MS)
    assert gate.account("camera") == (1, {"bad_timestamp": 1})
    assert gate.boxes["camera"].announced_ns is None


def test_a_reading_left_out_costs_that_reading_and_is_said_while_its_cause_changes(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        gate.intake.sample("sensors", {"a": 1e9, "b": 3.0, "made_up": 1.0})
    assert gate.account("sensors") == (2, {})
    assert [sorted(one.values) for one in gate.taken("sensors") if isinstance(one, Sample)] == [["b"], ["b"]]
    assert gate.boxes["sensors"].refused_parts == {"out_of_range": 2, "unknown_channel": 2}
    said = lines(caplog)
    assert [line.split()[:5] for line in said] == [
        ["sensors:", "left", "out:", "a", "out_of_range"],
        ["sensors:", "left", "out:", "made_up", "unknown_channel"],
    ]
    gate.intake.sample("sensors", {"a": None, "b": 3.0, "another": 1.0})
    assert [line.split()[3:5] for line in lines(caplog)] == [["a", "null"]], "unknown names are one trouble"
    gate.intake.sample("sensors", {"a": 1.0})
    assert lines(caplog) == ["sensors: a is good again, or not sent"]
    gate.intake.sample("sensors", {"a": 1.0})
    assert lines(caplog) == []
    gate.intake.sample("sensors", {"a": 1e9, "b": 1.0})
    assert len(lines(caplog)) == 1


def test_trouble_that_comes_and_goes_with_every_message_says_a_few_lines_and_how_many_more(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(50):
        gate.intake.refuse("text", Refusal("one", ""))
        gate.intake.refuse("text", Refusal("other", ""))
    assert len(lines(caplog)) == LOG_LINES
    assert gate.intake.refusals("text") == {"one": 50, "other": 50}, "what is not said is counted"
    gate.clock.at_ns += 1_000_000_000
    gate.intake.refuse("text", Refusal("one", ""))
    gate.intake.refuse("text", Refusal("other", ""))
    (line,) = lines(caplog)
    assert line.startswith("text: refusing messages: one") and f"({100 - LOG_LINES} changes not said)" in line
    gate.intake.refuse("camera", Refusal("one", ""))
    assert len(lines(caplog)) == 1, "each stream has its own lines"


def test_what_sources_ask_of_a_stream(gate: Gate) -> None:
    intake = Gate(stamped=["sensors"]).intake
    assert [intake.needs_stamp(name) for name in ("sensors", "text", "nowhere")] == [True, False, False]
    assert [intake.expected_hz(name) for name in ("camera", "sensors", "nowhere")] == [30, 20, None]
    assert [intake.newest_only(name) for name in ("camera", "sensors", "text", "nowhere")] == [
        True,
        False,
        False,
        False,
    ]
    picture = jpeg(noise(90, 1))
    assert intake.work_ns("camera", picture) == kind_of(STREAMS["camera"]).work_ns(picture) > 0
    assert intake.work_ns("nowhere", picture) == 0


def test_what_was_stamped_before_the_machine_slept_is_as_old_as_it_is_though_nobody_has_looked_yet(gate: Gate) -> None:
    gate.clock.asleep_ns += 3_600_000 * NS_PER_MS
    gate.intake.text("text", "stop", captured_ns=gate.clock.now_ns() - NS_PER_MS)
    assert (gate.taken("text"), gate.account("text")) == ([], (1, {"bad_timestamp": 1}))
