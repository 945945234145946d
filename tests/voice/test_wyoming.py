"""The Wyoming client against servers of the library's own events: whole, in pieces, wrong, endless, silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.admit import Refusal
from edge_runtime.voice import wyoming as ours
from edge_runtime.voice.grammar import Grammar
from edge_runtime.voice.recogniser import Heard
from edge_runtime.voice.wyoming import MAX_LINE, MAX_PART, Incoming, WyomingError, WyomingRecogniser, encoded

pytest.importorskip("wyoming", reason="wyoming is not installed")

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event, read_event
from wyoming.info import Describe

PCM = (np.arange(5000) % 200 - 100).astype(np.int16)
GRAMMAR = Grammar(("turn left", "In 20 metres, stop"))


@contextmanager
def serving(answer: Callable[[list[Event]], bytes]) -> Iterator[tuple[str, int]]:
    """A server of one connection: reads all up to the end of the sound, and then says `answer`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as file:
            events = []
            while (event := read_event(file)) is not None:  # type: ignore[arg-type]
                events.append(event)
                if AudioStop.is_type(event.type):
                    break
            try:
                connection.sendall(answer(events))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def ask(answer: bytes, grammar: Grammar | None = GRAMMAR, language: str | None = None) -> Heard | Refusal:
    with serving(lambda events: answer) as (host, port):
        return WyomingRecogniser(host, port, grammar, language).transcribe(PCM)


def says(text: str, **more: str) -> bytes:
    return encoded(Transcript(text, **more).event())


def test_the_server_gets_the_sound_and_its_form() -> None:
    told: list[Event] = []

    def answer(events: list[Event]) -> bytes:
        told.extend(events)
        return says("Turn left.", language="en")

    with serving(answer) as (host, port):
        heard = WyomingRecogniser(host, port, GRAMMAR, "en").transcribe(PCM)
    assert heard == Heard("turn left", "en")
    assert Transcribe.from_event(told[0]).language == "en"
    start = AudioStart.from_event(told[1])
    assert (start.rate, start.width, start.channels) == (16000, 2, 1)
    assert b"".join(AudioChunk.from_event(event).audio for event in told[2:-1]) == PCM.tobytes()


def test_with_a_grammar_only_its_sentences_are_taken_and_as_it_writes_them() -> None:
    assert ask(says("in 20 metres stop!"), language="en") == Heard("In 20 metres, stop", "en")
    assert ask(says("turn around")) == Refusal("not_in_grammar", "'turn around'")
    assert ask(says(" ")) == Refusal("not_in_grammar", "nothing was understood")
    assert ask(says(" 左转 ", language="zh"), None) == Heard("左转", "zh")


def test_other_events_before_the_transcript_are_passed_over() -> None:
    assert ask(encoded(Describe().event()) * 3 + says("turn left")) == Heard("turn left")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "gone without a transcript"),
        (says("turn left")[:-3], "gone without a transcript"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Wyoming"),
        (b"[1]\n", "no Wyoming"),
        (b'{"type": "transcript", "data": 5}\n', "without text"),
        (b'{"data": {}}\n', "no Wyoming"),
        (b"[" * 9000 + b"\n", "no Wyoming"),
        (b"x" * (MAX_LINE + 9), "a line of more than"),
        (b'{"type": "x", "payload_length": 99999999999}\n', "at most"),
        (b'{"type": "x", "data_length": "9"}\n', "no Wyoming"),
        (b'{"type": "x", "payload_length": 1.5}\n', "at most"),
        (b'{"type": "x", "payload_length": -5}\n', "gone without a transcript"),
        (encoded(Describe().event()) * 99, "says much"),
        (encoded(Event("transcript", {"text": 5})), "without text"),
    ],
)
def test_what_is_no_answer_is_an_error_and_bounded(answer: bytes, message: str) -> None:
    with pytest.raises(WyomingError, match=message):
        ask(answer)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        WyomingRecogniser(*listener.getsockname()[:2], GRAMMAR).transcribe(PCM)
    with pytest.raises(OSError):
        WyomingRecogniser(*listener.getsockname()[:2], GRAMMAR).transcribe(PCM)


@given(cuts=st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_events_come_whole_out_of_whatever_pieces(cuts: list[int]) -> None:
    events = [
        Event("a"),
        Event("transcript", {"text": "日本 " * 20, "deep": [[{}]]}),
        Event("sound", {"rate": 5}, bytes(range(256)) * 3),
        Event("end", {"x": "\n"}),
    ]
    data = b"".join(map(encoded, events))
    incoming, came = Incoming(), []
    at = number = 0
    while at < len(data):
        piece = data[at : at + cuts[number % len(cuts)]]
        at, number = at + len(piece), number + 1
        came += list(incoming.events(piece))
    assert [(event.type, event.data or {}, event.payload) for event in came] == [
        (event.type, event.data, event.payload) for event in events
    ]
    assert not incoming.begun


@given(data=st.binary(max_size=300))
def test_whatever_bytes_come_nothing_else_is_raised(data: bytes) -> None:
    try:
        list(Incoming().events(data))
    except WyomingError:
        pass


def test_what_would_be_more_than_is_kept_is_refused_before_it_comes() -> None:
    head = b'{"type": "x", "data_length": %d, "payload_length": %d}\n'
    incoming = Incoming()
    assert not list(incoming.events(head % (2, MAX_PART))) and incoming.begun
    (event,) = incoming.events(b"{}" + bytes(MAX_PART))
    assert event.payload == bytes(MAX_PART) and not incoming.begun
    with pytest.raises(WyomingError, match="at most"):
        list(Incoming().events(head % (2, MAX_PART + 1) + b"{}"))
    with pytest.raises(WyomingError, match="at most"):
        list(Incoming().events(head % (MAX_PART + 1, 0)))
