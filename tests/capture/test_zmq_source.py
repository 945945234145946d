from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import config, pictures
from edge_runtime.capture import open_sources, slow_lane
from edge_runtime.capture.door import Heard, Visitor
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.sender import Arrived, Sender
from edge_runtime.capture.zmq_source import LIGHT_NS, LIMITS, ZmqSource
from edge_runtime.clock import RealClock, rfc3339
from tests import tiny
from tests.capture.test_sender import HELLO
from tests.capture.test_sender import message as on_the_wire
from tests.capture.test_sources import Inbox
from tests.conftest import jpeg, noise, wait_for

SAMPLE = b'{"schema":1,"stream":"sensors","values":{"a":1}}'


def visitor(key: str, now_ns: int) -> Visitor:
    """Somebody with a connection that plays no part."""
    return Visitor(Sender(socket.socket(), key, LIMITS, now_ns), now_ns, 0)


class Link:
    """A sender connected to a source."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.source = ZmqSource(self.inbox.intake, "tcp://127.0.0.1:*")
        self.source.start()
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.connect(self.source.endpoint)

    def refused(self) -> dict[str, int]:
        """Everything refused so far, after all that was sent has been read."""
        before = self.inbox.captured("text")
        self.socket.send(b'{"schema":1,"stream":"text","text":"mark"}')
        wait_for(lambda: self.inbox.captured("text") > before, "the mark")
        counts = dict(self.inbox.intake.unrouted_counts())
        for stream in tiny.STREAMS:
            counts |= {f"{stream}.{reason}": n for reason, n in self.inbox.boxes[stream].counts(0).dropped.items()}
        return counts

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.source.stop()

    def another(self) -> zmq.Socket[bytes]:
        """Another sender."""
        socket = self.context.socket(zmq.PUSH)
        socket.connect(self.source.endpoint)
        return socket


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.close()


BAD: dict[str, tuple[list[bytes], str]] = {
    "not json": ([b"hello"], "malformed"),
    "empty": ([b""], "malformed"),
    "not utf-8": ([b'{"schema":1,"stream":"text","text":"\xff"}'], "malformed"),
    "wrong schema": ([SAMPLE.replace(b"1,", b"2,", 1)], "malformed"),
    "unknown field": ([SAMPLE[:-1] + b',"x":1}'], "malformed"),
    "values and text": ([SAMPLE[:-1] + b',"text":"x"}'], "malformed"),
    "neither": ([b'{"schema":1,"stream":"text"}'], "malformed"),
    "three frames": ([SAMPLE, b"", b""], "malformed"),
    "too big": ([b" " * (65 << 10)], "too_big"),
    "unknown stream": ([SAMPLE.replace(b"sensors", b"nose")], "unknown_stream"),
    "text to sensors": ([b'{"schema":1,"stream":"sensors","text":"x"}'], "unknown_stream"),
    "picture to sensors": ([b'{"schema":1,"stream":"sensors"}', b"\xff\xd8"], "unknown_stream"),
    "garbage picture": ([b'{"schema":1,"stream":"camera"}', b"\xff\xd8garbage"], "camera.corrupt"),
    "no picture": ([b'{"schema":1,"stream":"camera"}', b"GIF89a"], "camera.not_jpeg"),
    "future": ([SAMPLE[:-1] + b',"captured_ns":9000000000000000000}'], "sensors.bad_timestamp"),
    "out of range": ([SAMPLE.replace(b'"a":1', b'"a":1e6')], "sensors.out_of_range"),
    "null value": ([SAMPLE.replace(b'"a":1', b'"a":null')], "sensors.null"),
    "word": ([SAMPLE.replace(b'"a":1', b'"a":"unavailable"')], "sensors.not_a_number"),
    "no number": ([SAMPLE.replace(b'"a":1', b'"a":NaN')], "sensors.not_finite"),
    "number too large": ([SAMPLE.replace(b'"a":1', b'"a":1e999')], "sensors.not_finite"),
    "number of thousands of digits": ([SAMPLE.replace(b'"a":1', b'"a":' + b"9" * 5000)], "sensors.not_finite"),
    "a list for a value": ([SAMPLE.replace(b'"a":1', b'"a":[1]')], "malformed"),
    "stamp of hundreds of digits": ([SAMPLE[:-1] + b',"captured_ns":' + b"9" * 400 + b"}"], "malformed"),
    "stamp below zero": ([SAMPLE[:-1] + b',"captured_ns":-1}'], "malformed"),
    "deep": ([SAMPLE[:-1] + b',"values":' + b'{"a":' * 9000 + b"}"], "malformed"),
    "deep and no number": ([b'{"a":' * 9000 + b"NaN"], "malformed"),
    "long mark": ([SAMPLE[:-1] + b',"id":"' + b"x" * 129 + b'"}'], "malformed"),
    "long name": ([SAMPLE.replace(b"sensors", b"s" * 129)], "malformed"),
    "half a surrogate pair": ([SAMPLE.replace(b"sensors", b"\\ud800")], "malformed"),
    "control character": ([b'{"schema":1,"stream":"text","text":"a\\u0007b"}'], "text.control_character"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_and_counted(link: Link, what: str) -> None:
    parts, reason = BAD[what]
    link.socket.send_multipart(parts)
    wait_for(lambda: link.refused() == {reason: 1}, reason)  # a picture may be looked at beside the door
    assert link.refused() == {reason: 1}


def test_good_messages_arrive_as_they_were_sent(link: Link) -> None:
    link.socket.send(b'{"schema":1,"stream":"sensors","values":{"a":1.5},"id":"s-1"}')
    header = b'{"schema":1,"stream":"camera","id":"f-1","captured_wall":"2026-01-01T00:00:00Z"}'
    link.socket.send_multipart([header, jpeg(noise(100, 1))])
    link.socket.send('{"schema":1,"stream":"text","text":"停车","lang":"zh"}'.encode())
    assert link.refused() == {}
    (sample,) = link.inbox.take("sensors")
    (frame,) = link.inbox.take("camera")
    sentence, _ = link.inbox.take("text")
    assert (sample.values, sample.id, frame.id) == ({"a": 1.5}, "s-1", "f-1")  # type: ignore[union-attr]
    assert (sentence.text, sentence.lang) == ("停车", "zh")  # type: ignore[union-attr]


def test_a_part_of_many_megabytes_does_not_reach_our_memory_and_others_go_on(link: Link) -> None:
    link.another().send(b"x" * (40 << 20))
    wait_for(lambda: "connection_too_big" in link.inbox.intake.unrouted_counts(), "the end of its connection")
    assert not {"malformed", "too_big"} & link.refused().keys()


@pytest.mark.parametrize(
    ("values", "heard", "lost"),
    [
        (b'{"a":2,"b":null}', {"a": 2.0}, {"null": 1}),
        (b'{"a":2,"b":"unavailable"}', {"a": 2.0}, {"not_a_number": 1}),
        (b'{"a":2,"b":NaN}', {"a": 2.0}, {"not_finite": 1}),
        (b'{"a":2,"b":-Infinity,"x":3}', {"a": 2.0}, {"not_finite": 1, "unknown_channel": 1}),
        (b'{"a":2,"b":1e400}', {"a": 2.0}, {"not_finite": 1}),
        (b'{"a":2,"b":11}', {"a": 2.0}, {"out_of_range": 1}),
        (b'{"a":"2.5","b":true}', {"a": 2.5, "b": 1.0}, {}),
    ],
)
def test_a_reading_that_is_none_costs_its_channel_and_no_other(
    link: Link, values: bytes, heard: dict[str, float], lost: dict[str, int]
) -> None:
    link.socket.send(SAMPLE.replace(b'{"a":1}', values))
    assert link.refused() == {}
    (sample,) = link.inbox.take("sensors")
    assert sample.values == heard  # type: ignore[union-attr]
    assert link.inbox.boxes["sensors"].refused_parts == lost


def test_the_log_names_a_channel_whenever_its_cause_changes(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    for value in (b"null", b"null", b'"off"', b"1", b"1"):
        link.socket.send(SAMPLE.replace(b'"a":1', b'"a":1,"b":' + value))
    for name in (b"x", b"y", b"z"):  # unknown names are said once, however many are made up
        link.socket.send(SAMPLE.replace(b'"a":1', b'"a":1,"' + name + b'":1'))
    assert link.refused() == {}
    said = [record.message.partition(": ")[2] for record in caplog.records if record.message.startswith("sensors")]
    assert [line.split(" =")[0].strip() for line in said] == [
        "left out: b null",
        "left out: b not_a_number",
        "b is good again, or not sent",
        "left out: x unknown_channel",
    ]


def test_a_message_of_some_parts_too_many_is_one_refusal(link: Link) -> None:
    link.socket.send_multipart([SAMPLE] + [b"x"] * 40)
    assert link.refused() == {"malformed": 1}


def test_a_message_of_thousands_of_parts_ends_its_sender_s_connection_and_no_other(link: Link) -> None:
    link.another().send_multipart([SAMPLE] + [b"x"] * 5000)
    wait_for(lambda: "connection_malformed" in link.inbox.intake.unrouted_counts(), "the end of its connection")
    link.socket.send(SAMPLE)
    assert link.refused()["connection_malformed"] >= 1
    assert link.inbox.captured("sensors") == 1


def test_an_error_nobody_thought_of_is_counted_and_the_next_message_heard(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = link.inbox.intake.sample

    def broken(stream: str, values: dict[str, float], *rest: object) -> None:
        if values == {"a": 1.0}:
            raise ZeroDivisionError("unthought of")
        real(stream, values, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(link.inbox.intake, "sample", broken)
    link.socket.send(SAMPLE)
    link.socket.send(SAMPLE.replace(b'"a":1', b'"a":2'))
    assert link.refused() == {"error_ZeroDivisionError": 1}
    (sample,) = link.inbox.take("sensors")
    assert sample.values == {"a": 2.0}  # type: ignore[union-attr]


def test_a_stream_keeps_to_its_share_and_the_others_have_theirs() -> None:
    inbox = Inbox()
    source = ZmqSource(inbox.intake, "tcp://127.0.0.1:*", rate_limit=2.0)
    source.start()
    context = zmq.Context()
    flood, honest = context.socket(zmq.PUSH), context.socket(zmq.PUSH)
    for one in (flood, honest):
        one.connect(source.endpoint)
    for _ in range(2000):
        flood.send(SAMPLE)
    honest.send(b'{"schema":1,"stream":"text","text":"stop"}')
    wait_for(lambda: inbox.captured("text") == 1, "the sentence beside a flood")
    wait_for(lambda: inbox.captured("sensors") == 2000, "the flood")
    over = inbox.boxes["sensors"].counts(0).dropped["over_rate"]
    # 2 x 20 Hz, a second's worth at once, and what refilled while the flood lasted.
    assert 2000 - over >= 40
    assert over > 1000
    flood.close(linger=0)
    honest.close(linger=0)
    context.term()
    source.stop()


def test_of_frames_that_wait_the_newest_of_each_sender_is_decoded(link: Link) -> None:
    now_ns = link.inbox.intake.clock.now_ns()
    one, other = visitor("one", now_ns), visitor("other", now_ns)

    def frame(n: int, data: bytes) -> Arrived:
        return Arrived((b'{"schema":1,"stream":"camera","id":"f-%d","captured_ns":%d}' % (n, now_ns + n), data), now_ns)

    good = [frame(n, jpeg(noise(100, n))) for n in (0, 1, 4, 2)]
    # The other one's garbage is newer, and costs nobody else a frame.
    link.source._deliver_all([Heard(one, good), Heard(other, [frame(9, b"\xff\xd8garbage")])])
    (taken,) = link.inbox.take("camera")
    assert taken.id == "f-4"
    wait_for(lambda: link.inbox.captured("camera") == 5, "the other one's")
    assert link.inbox.boxes["camera"].counts(0).dropped == {"replaced": 3, "corrupt": 1}


def test_a_picture_that_takes_long_holds_up_nobody_else_s(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = jpeg(noise(100, 1)), jpeg(noise(100, 2, (1080, 1920)))
    assert pictures.work_ns(small) < LIGHT_NS < pictures.work_ns(large)
    real, go, decoding = link.inbox.intake.put, threading.Event(), threading.Event()

    def put(stream: str, content: object, *rest: object) -> None:
        if content == large:
            decoding.set()
            assert go.wait(60)
        real(stream, content, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(link.inbox.intake, "put", put)
    header = b'{"schema":1,"stream":"camera","id":"%s"}'
    heavy = link.another()
    for number in range(20):
        heavy.send_multipart([header % (b"large-%d" % number), large])
    assert decoding.wait(60)
    for number in range(20):
        link.socket.send_multipart([header % (b"small-%d" % number), small])
    assert link.refused().keys() <= {"camera.replaced"}
    ids = [message.id for message in link.inbox.take("camera")]
    assert ids and all(id is not None and id.startswith("small") for id in ids)
    go.set()
    wait_for(lambda: link.inbox.captured("camera") == 40, "all to be accounted for")
    assert link.inbox.take("camera")[-1].id == "large-19"


def test_a_sender_whose_pictures_take_much_time_goes_the_slow_way(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []
    real = link.inbox.intake.put
    monkeypatch.setattr(
        link.inbox.intake, "put", lambda *one: (where.append(threading.current_thread().name), real(*one))
    )
    now_ns = link.inbox.intake.clock.now_ns()
    frame = Arrived((b'{"schema":1,"stream":"camera"}', jpeg(noise(100, 1))), now_ns)
    link.source._light.take("greedy", time.monotonic_ns())
    link.source._light.spend("greedy", 10_000.0)
    link.source._deliver_all([Heard(visitor("greedy", now_ns), [frame]), Heard(visitor("modest", now_ns), [frame])])
    wait_for(lambda: len(where) == 2, "both")
    assert [name.endswith("slow") for name in where] == [False, True]


def test_where_there_is_no_room_for_a_picture_it_is_over_rate(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_lane, "MAX_WAITING_BYTES", 1000)
    now_ns = link.inbox.intake.clock.now_ns()
    frame = Arrived((b'{"schema":1,"stream":"camera"}', jpeg(noise(100, 2, (1080, 1920)))), now_ns)
    link.source._deliver_all([Heard(visitor("one", now_ns), [frame])])
    assert link.refused() == {"camera.over_rate": 1}


def test_what_was_whole_before_its_sender_broke_off_is_accounted_for(link: Link) -> None:
    host, port = link.source.endpoint.removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(HELLO + on_the_wire(SAMPLE) * 30 + b"\xff")
        raw.settimeout(20)
        while raw.recv(1000):
            pass
    assert link.refused() == {"connection_no_frame": 1}
    assert link.inbox.captured("sensors") == 30


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), max_size=8))
def test_no_bytes_stop_it(link: Link, messages: list[list[bytes]]) -> None:
    for parts in messages:
        link.socket.send_multipart(parts)
    link.refused()
    assert not link.source.ended


def test_a_limit_can_change_on_the_endpoint_that_is_bound() -> None:
    inbox = Inbox()
    source = inbox.open(config.ZmqSource("tcp://127.0.0.1:*", rate_limit=0))
    assert isinstance(source, ZmqSource)
    row = config.ZmqSource(source.endpoint, rate_limit=1.0)
    (again,) = open_sources([row], tiny.STREAMS, inbox.intake, "", [source])
    assert again is source
    source.hand_over(inbox.intake)
    now_ns = inbox.intake.clock.now_ns()
    text = Arrived((b'{"schema":1,"stream":"text","text":"go"}',), now_ns)
    source._deliver_all([Heard(visitor("one", now_ns), [text] * 30)])
    assert inbox.boxes["text"].counts(0).dropped["over_rate"] == 10
    source.stop()


def sentence(now_ns: int, **fields: object) -> Heard:
    said = json.dumps({"schema": 1, "stream": "text", "text": "stop"} | fields).encode()
    return Heard(visitor("one", now_ns), [Arrived((said,), now_ns)])


def test_a_stream_may_demand_that_its_messages_say_when_they_were_captured() -> None:
    inbox = Inbox()
    inbox.intake = Intake(tiny.STREAMS, inbox.boxes, RealClock(), stamped=["text"])
    source = ZmqSource(inbox.intake, "tcp://127.0.0.1:*")
    now_ns = inbox.intake.clock.now_ns()
    source._deliver_all([sentence(now_ns), sentence(now_ns, captured_wall="2026-01-01T00:00:00Z")])
    assert inbox.boxes["text"].counts(0).dropped == {"no_stamp": 2}
    source._deliver_all([sentence(now_ns, captured_ns=now_ns - 1000)])
    assert [message.captured_ns for message in inbox.take("text")] == [now_ns - 1000]
    source.stop()


def test_wall_time_counts_where_clocks_are_said_to_agree_and_so_much_older() -> None:
    inbox = Inbox()
    source = ZmqSource(inbox.intake, "tcp://127.0.0.1:*", agreement_ns=20_000_000)
    clock = inbox.intake.clock
    for back_ms, taken in ((500, True), (-15, True), (-2000, False), (90_000, False)):
        now_ns = clock.now_ns()
        source._deliver_all([sentence(now_ns, captured_wall=rfc3339(clock.wall_ns() - back_ms * 1_000_000))])
        messages = inbox.take("text")
        assert bool(messages) is taken
        for message in messages:
            late_ms = (clock.now_ns() - now_ns) / 1e6  # what the test itself took
            # RFC 3339 text is cut to whole milliseconds.
            assert back_ms + 20 - late_ms - 1 <= (now_ns - message.captured_ns) / 1e6 <= back_ms + 22 + late_ms
    source._deliver_all([sentence(clock.now_ns(), captured_wall="noon")])
    assert inbox.boxes["text"].counts(0).dropped == {"bad_timestamp": 3}
    source.stop()
