from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.capture.zmq_source import ZmqSource
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import jpeg, noise, wait_for

SAMPLE = b'{"schema":1,"stream":"sensors","values":{"a":1}}'


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
        self.socket.close(linger=0)
        self.context.term()
        self.source.stop()


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
    "null value": ([SAMPLE.replace(b'"a":1', b'"a":null')], "malformed"),
    "number too large": ([SAMPLE.replace(b'"a":1', b'"a":1e999')], "malformed"),
    "control character": ([b'{"schema":1,"stream":"text","text":"a\\u0007b"}'], "text.control_character"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_and_counted(link: Link, what: str) -> None:
    parts, reason = BAD[what]
    link.socket.send_multipart(parts)
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
    bad = link.context.socket(zmq.PUSH)
    bad.connect(link.source.endpoint)
    bad.send(b"x" * (40 << 20))
    assert link.refused() == {}
    bad.close(linger=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), max_size=8))
def test_no_bytes_stop_it(link: Link, messages: list[list[bytes]]) -> None:
    for parts in messages:
        link.socket.send_multipart(parts)
    link.refused()
    assert not link.source.ended
