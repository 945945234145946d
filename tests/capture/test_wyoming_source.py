"""The source of kind `wyoming`, spoken to by the library's own client and by sockets that say what no client does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_runtime import config
from edge_runtime.capture import open_sources, wyoming_source
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.wyoming_source import MAX_CONNECTIONS, WyomingSource
from edge_runtime.clock import RealClock
from edge_runtime.errors import HeldError
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Utterance
from edge_runtime.voice.wyoming import MAX_LINE, encoded
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import WAIT_S, wait_for

pytest.importorskip("wyoming", reason="wyoming is not installed")

from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.event import Event, read_event
from wyoming.handle import Handled, NotHandled
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong


@contextmanager
def listening(inbox: Inbox | None = None) -> Iterator[tuple[Inbox, WyomingSource, tuple[str, int]]]:
    inbox = inbox or Inbox()
    source = inbox.open(config.WyomingSource("text", "tcp://127.0.0.1:*"))
    assert isinstance(source, WyomingSource)
    source.start()
    try:
        yield inbox, source, ("127.0.0.1", int(source.endpoint.rpartition(":")[2]))
    finally:
        source.stop(10.0)
        assert source.ended and source.state == "ended", source.reason


def talk(where: tuple[str, int], *events: Event) -> list[Event]:
    """What the library's own client gets for each."""

    async def run() -> list[Event]:
        async with AsyncTcpClient(*where) as client:
            answers = []
            for event in events:
                await client.write_event(event)
                answer = await asyncio.wait_for(client.read_event(), WAIT_S)
                assert answer is not None
                answers.append(answer)
            return answers

    return asyncio.run(run())


def test_a_transcript_is_a_sentence_and_is_answered() -> None:
    with listening() as (inbox, _, where):
        described, pong, handled, refused = talk(
            where,
            Describe().event(),
            Ping(text="x").event(),
            Transcript("  please stop now", language="en").event(),
            Event("transcript", {"text": 5}),
        )
        assert Info.from_event(described).handle[0].name == "edge-runtime"
        assert Pong.from_event(pong).text == "x"
        assert Handled.is_type(handled.type) and NotHandled.is_type(refused.type)
        (said,) = inbox.take("text")
        assert isinstance(said, Utterance) and (said.text, said.lang) == ("please stop now", "en")
        assert dict(inbox.intake.refusals("text")) == {"malformed": 1}


def test_sound_is_let_pass() -> None:
    form: dict[str, Any] = {"rate": 16000, "width": 2, "channels": 1}
    with listening() as (inbox, _, where), socket.create_connection(where) as connection:
        for event in (AudioStart(**form), *[AudioChunk(**form, audio=bytes(3200))] * 50, Transcript("stop")):
            connection.sendall(encoded(event.event()))
        wait_for(lambda: inbox.captured("text") == 1, "the sentence")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"x" * (MAX_LINE + 100), b"[[[[\n", b'{"payload_length": 9e9}\n']
)
def test_who_speaks_no_wyoming_is_cut_off_and_the_others_are_heard(data: bytes) -> None:
    with listening() as (inbox, _, where), socket.create_connection(where) as other:
        with socket.create_connection(where, WAIT_S) as connection:
            connection.sendall(data)
            wait_for(lambda: inbox.intake.refusals("text")["malformed"] == 1, "the refusal")
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                pass
        other.sendall(encoded(Transcript("stop").event()))
        wait_for(lambda: inbox.boxes["text"].counts(0).in_flight == 1, "the sentence")


def test_a_sender_in_the_middle_of_an_event_holds_nobody_up() -> None:
    whole = encoded(Transcript("go on then").event())
    with listening() as (inbox, _, where), socket.create_connection(where) as slow:
        slow.sendall(whole[:10])
        talk(where, Transcript("stop").event())
        slow.sendall(whole[10:])
        wait_for(lambda: inbox.captured("text") == 2, "both")
        assert [said.text for said in inbox.take("text")] == ["stop", "go on then"]  # type: ignore[attr-defined]


def test_of_too_many_the_one_gives_way_that_was_silent_for_longest() -> None:
    with listening() as (inbox, _, where):
        held = [socket.create_connection(where, WAIT_S) for _ in range(MAX_CONNECTIONS)]
        try:
            for connection in held[1:]:
                connection.sendall(encoded(Ping().event()))
                with connection.makefile("rb") as file:
                    assert read_event(file) is not None  # type: ignore[arg-type]
            talk(where, Transcript("stop").event())
            assert held[0].recv(1) == b""
            held[1].sendall(encoded(Transcript("stop").event()))
            wait_for(lambda: inbox.captured("text") == 2, "the one that stayed")
        finally:
            for connection in held:
                connection.close()


def test_a_flood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming_source, "MIN_RATE_HZ", 1.0)
    with listening() as (inbox, _, where), socket.create_connection(where) as connection:
        connection.sendall(encoded(Transcript("stop").event()) * 50)
        wait_for(lambda: inbox.captured("text") == 50, "all")
        assert inbox.intake.refusals("text")["over_rate"] > 30


def test_a_stream_that_demands_stamps_takes_none_without() -> None:
    inbox = Inbox()
    inbox.boxes = {name: Mailbox(100) for name in tiny.STREAMS}
    inbox.intake = Intake(tiny.STREAMS, inbox.boxes, RealClock(), stamped=("text",))
    with listening(inbox) as (_, _, where):
        (answer,) = talk(where, Transcript("stop").event())
        assert NotHandled.is_type(answer.type) and dict(inbox.intake.refusals("text")) == {"no_stamp": 1}


def test_a_port_that_is_held_is_named() -> None:
    with listening() as (inbox, source, _), pytest.raises(HeldError, match="somebody listens there"):
        open_sources((config.WyomingSource("text", source.endpoint),), tiny.STREAMS, inbox.intake, "")
