"""A microphone: the real PortAudio where no sound card is, and a stream that plays a file in the place of one's."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime import config
from edge_runtime.capture import voice_source
from edge_runtime.capture.listener_process import ListenerProcess
from edge_runtime.capture.source import Source
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.messages import Utterance
from tests.capture.test_listener_process import listening as processes
from tests.capture.test_listener_process import quick, started  # noqa: F401  # `quick` is for each test here too
from tests.capture.test_sources import Inbox
from tests.capture.test_voice_source import recognising
from tests.conftest import wait_for
from tests.voice.sounds import hum, still

try:
    import sounddevice
except (ImportError, OSError) as error:
    pytest.skip(f"PortAudio is not there ({error}); apt-get install libportaudio2", allow_module_level=True)

SAID = np.concatenate((still(0.5), hum(0.5), still(1.0)))
WAITED_S = 0.2


@contextmanager
def listening(inbox: Inbox, folder: Path, port: int) -> Iterator[Source]:
    (folder / "grammar.txt").write_text("turn (left|right)\n")
    row = {"device": "no such ear", "recogniser": "wyoming", "port": port, "grammar": str(folder / "grammar.txt")}
    with started(inbox, config.VoiceSource("text", **row)) as source:  # type: ignore[arg-type]
        yield source


class Card:
    """A stream as sounddevice gives it: its own thread hands on what was heard WAITED_S ago, in real time."""

    sound = SAID
    pace = 1.0
    overflows = False
    opened = 0
    played = 0

    def __init__(self, rate: int, block: int, device: Any, channels: int, dtype: str, callback: Any) -> None:
        assert (rate, device, channels, dtype) == (SAMPLE_RATE, "no such ear", 1, "int16")
        self._block, self._callback = block, callback
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> Card:
        Card.opened += 1
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _play(self) -> None:
        for start in range(0, len(self.sound), self._block):
            if self._stopping.wait(self._block / SAMPLE_RATE / self.pace):
                return
            part = self.sound[start : start + self._block]
            at = SimpleNamespace(currentTime=9.0, inputBufferAdcTime=9.0 - WAITED_S - len(part) / SAMPLE_RATE)
            flags = SimpleNamespace(input_overflow=self.overflows and start == 0)
            self._callback(part.tobytes(), len(part), at, flags)
            Card.played += 1


def test_one_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with listening(Inbox(), tmp_path, 9) as source:
        wait_for(lambda: source.state == "waiting" and "no such ear" in str(source.reason), "the outage")


def test_what_is_said_counts_from_when_it_was_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    inbox = Inbox()
    with recognising("Turn left.") as port, listening(inbox, tmp_path, port) as source:
        wait_for(lambda: inbox.captured("text") == 1, "the sentence")
        assert source.state == "running"
        now_ns = time.monotonic_ns()
    (said,) = inbox.take("text")
    assert isinstance(said, Utterance) and said.text == "turn left" and said.speech is not None
    assert said.captured_ns < now_ns - int((WAITED_S + 0.2) * 1e9), "its sound lay in the card, and there was a pause"
    assert said.speech.duration_ms == pytest.approx(500, abs=70)


def test_a_card_that_gives_nothing_more_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    monkeypatch.setattr(voice_source, "SILENT_S", 0.3)
    monkeypatch.setattr(Card, "opened", 0)
    inbox = Inbox()
    with recognising("turn left", "turn right", "turn left") as port, listening(inbox, tmp_path, port):
        wait_for(lambda: Card.opened >= 3 and inbox.captured("text") >= 2, "it to be opened again")


def test_sound_that_was_lost_is_counted_and_nothing_is_heard_across_the_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    monkeypatch.setattr(Card, "overflows", True)
    inbox = Inbox()
    with recognising("turn left") as port, listening(inbox, tmp_path, port):
        wait_for(lambda: inbox.captured("text") == 2, "both")
    assert dict(inbox.intake.refusals("text")) == {"lost_sound": 1}


def test_what_the_process_that_listens_has_no_room_for_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    monkeypatch.setattr(Card, "sound", np.concatenate([still(60.0), *[SAID] * 30]))
    monkeypatch.setattr(Card, "pace", 20.0)
    monkeypatch.setattr(Card, "played", 0)
    inbox = Inbox()
    with recognising(*["turn left"] * 30) as port, listening(inbox, tmp_path, port):
        (process,) = processes(os.getpid())
        wait_for(lambda: Card.played > 0, "some sound")
        os.kill(process, signal.SIGSTOP)
        at = Card.played
        wait_for(lambda: Card.played > at + 300, "more than the pipe holds")
        os.kill(process, signal.SIGCONT)
        wait_for(lambda: "lost_sound" in inbox.intake.refusals("text"), "the account")
        wait_for(lambda: len(inbox.take("text")) > 0, "what is said later")


def test_one_gap_counts_once_however_long_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    monkeypatch.setattr(Card, "sound", still(60.0))
    monkeypatch.setattr(Card, "pace", 20.0)
    monkeypatch.setattr(Card, "played", 0)
    inbox = Inbox()
    with recognising("turn left") as port, listening(inbox, tmp_path, port):
        (process,) = processes(os.getpid())
        wait_for(lambda: Card.played > 0, "some sound")
        os.kill(process, signal.SIGSTOP)
        at = Card.played
        wait_for(lambda: Card.played > at + 400, "more than the pipe holds")
    assert dict(inbox.intake.refusals("text")) == {"lost_sound": 1}


def test_a_gap_that_nobody_could_be_told_of_counts_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounddevice, "RawInputStream", Card)
    monkeypatch.setattr(Card, "overflows", True)
    monkeypatch.setattr(Card, "played", 0)
    monkeypatch.setattr(ListenerProcess, "lost", lambda self: False)
    inbox = Inbox()
    with recognising("turn left") as port, listening(inbox, tmp_path, port):
        wait_for(lambda: Card.played > 30, "more than a sentence")
    assert dict(inbox.intake.refusals("text")) == {"lost_sound": 1} and not inbox.take("text")
