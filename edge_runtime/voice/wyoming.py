"""The Wyoming protocol (https://github.com/OHF-Voice/wyoming), bounded: a line of JSON, perhaps data and a payload.

It knows neither encryption nor who comes.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.voice.grammar import Grammar, plain
from edge_runtime.voice.recogniser import NOT_IN_GRAMMAR, Heard

if TYPE_CHECKING:
    from wyoming.event import Event

MAX_LINE = 16 << 10
MAX_PART = 64 << 10
"""Bytes of an event's data, and of its payload."""
CHUNK = SAMPLE_RATE // 10
ANSWER_S = 10.0
"""A recogniser that takes longer is away."""
CONNECT_S = 3.0
MAX_EVENTS = 64
"""Before its answer a recogniser may say so much else."""


class WyomingError(OSError):
    """What comes is no Wyoming, or more than is taken."""


class _Incomplete(Exception):
    """The rest of an event is still to come."""


class Incoming:
    """Events out of bytes as they come, no part of them larger than is said above. One thread."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    @property
    def begun(self) -> bool:
        """Whether a part of an event is here."""
        return bool(self._buffer)

    def events(self, data: bytes) -> Iterator[Event]:
        """Those that are whole with `data`. Raises WyomingError for what can be none."""
        from wyoming.event import read_event

        self._buffer += data
        while self._buffer:
            self._at = 0
            try:
                event = read_event(self)  # type: ignore[arg-type]  # all that it uses of a file
            except _Incomplete:
                return
            except (RecursionError, KeyError, TypeError, AttributeError) as error:
                raise WyomingError(f"this is no Wyoming event ({type(error).__name__})") from None
            if event is None:
                raise WyomingError("this is no Wyoming event")
            del self._buffer[: self._at]
            yield event

    def readline(self) -> bytes:
        """For the library, from what is here."""
        end = self._buffer.find(b"\n", self._at) + 1
        if end > MAX_LINE or (not end and len(self._buffer) > MAX_LINE):
            raise WyomingError(f"this is no Wyoming: a line of more than {MAX_LINE} bytes")
        if not end:
            raise _Incomplete
        line, self._at = bytes(self._buffer[self._at : end]), end
        return line

    def read(self, count: int) -> bytes:
        """For the library, from what is here."""
        if not isinstance(count, int) or not 0 <= count <= MAX_PART:
            raise WyomingError(f"a part of {str(count)[:20]} bytes, at most {MAX_PART} are taken")
        if self._at + count > len(self._buffer):
            raise _Incomplete
        part, self._at = bytes(self._buffer[self._at : self._at + count]), self._at + count
        return part


def encoded(event: Event) -> bytes:
    """As it is sent."""
    from wyoming.event import write_event

    whole = io.BytesIO()
    write_event(event, whole)
    return whole.getvalue()


class WyomingRecogniser:
    """Any Wyoming server that makes text of speech, asked anew for each utterance. See `recogniser.Recogniser`."""

    def __init__(self, host: str, port: int, grammar: Grammar | None, language: str | None = None) -> None:
        """With a `grammar` only its sentences are taken, whatever their capitals and punctuation."""
        self._where = host, port
        self._sentences = None if grammar is None else {plain(sentence): sentence for sentence in grammar.sentences}
        self._language = language

    def ready(self) -> None:
        """There is nothing to do: it may be there only later."""

    def transcribe(self, pcm: Sound) -> Heard | Refusal:
        """Raises OSError where the server is away, or answers none within ANSWER_S."""
        from wyoming.asr import Transcribe, Transcript
        from wyoming.audio import AudioChunk, AudioStart, AudioStop

        form: dict[str, Any] = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}
        request = encoded(Transcribe(language=self._language).event()) + encoded(AudioStart(**form).event())
        for start in range(0, len(pcm), CHUNK):
            part = pcm[start : start + CHUNK].astype("<i2").tobytes()
            request += encoded(AudioChunk(**form, audio=part, timestamp=start * 1000 // SAMPLE_RATE).event())
        request += encoded(AudioStop().event())
        incoming, count = Incoming(), 0
        end_s = time.monotonic() + ANSWER_S
        with socket.create_connection(self._where, CONNECT_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(request)
            while (left_s := end_s - time.monotonic()) > 0:
                connection.settimeout(left_s)
                data = connection.recv(1 << 16)
                if not data:
                    raise WyomingError("the recogniser has gone without a transcript")
                for event in incoming.events(data):
                    if Transcript.is_type(event.type):
                        return self._taken(event)
                    count += 1
                    if count > MAX_EVENTS:
                        raise WyomingError(f"the recogniser says much, but no transcript in {MAX_EVENTS} events")
        raise TimeoutError(f"the recogniser gives no transcript within {ANSWER_S:g} s")

    def _taken(self, event: Event) -> Heard | Refusal:
        text, lang = sentence_of(event)
        if text is None:
            raise WyomingError("a transcript without text")
        if not text:
            return Refusal(NOT_IN_GRAMMAR, "nothing was understood")
        if self._sentences is None:
            return Heard(text, lang or self._language)
        sentence = self._sentences.get(plain(text))
        return (
            Refusal(NOT_IN_GRAMMAR, repr(text[:100])) if sentence is None else Heard(sentence, lang or self._language)
        )


def sentence_of(event: Event) -> tuple[str | None, str | None]:
    """A transcript's text without outer white space (None where there is none) and its language."""
    data: Any = event.data
    text = data.get("text") if isinstance(data, dict) else None
    lang = data.get("language") if isinstance(data, dict) else None
    return text.strip() if isinstance(text, str) else None, lang if isinstance(lang, str) and len(lang) <= 35 else None
