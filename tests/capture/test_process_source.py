from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime import config
from edge_runtime.capture import open_sources, process_source
from edge_runtime.capture.process_source import OutputLog, ProcessSource
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import wait_for

SENDER = """
import json, sys, zmq
context = zmq.Context()
socket = context.socket(zmq.PUSH)
socket.connect(sys.argv[1])
socket.send(json.dumps({"schema": 1, "stream": "text", "text": sys.argv[2]}).encode())
socket.close()
context.term()  # when it has been sent
"""


def python(code: str, *arguments: str, **settings: object) -> config.ProcessSource:
    return config.ProcessSource((sys.executable, "-c", code, *arguments), **settings)  # type: ignore[arg-type]


@contextmanager
def started(*rows: config.SourceConfig) -> Iterator[tuple[Inbox, list[Source]]]:
    inbox = Inbox()
    sources = open_sources(rows, tiny.STREAMS, inbox.intake, "tcp://127.0.0.1:9")
    for source in sources:
        source.start()
    try:
        yield inbox, sources
    finally:
        for source in sources:
            source.stop(10.0)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_source, "FIRST_PAUSE_S", 0.01)


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of it until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_sends_into_the_socket_above_it_and_is_ended_when_it_ends() -> None:
    row = python(SENDER, "{inputs}", "decisions at {decisions}", restart=False)
    with started(config.ZmqSource("tcp://127.0.0.1:*"), row) as (inbox, (_, source)):
        wait_for(lambda: source.ended and inbox.captured("text") == 1, "the sentence")
        (message,) = inbox.take("text")
        assert getattr(message, "text", "") == "decisions at tcp://127.0.0.1:9"
        health = source.health()
        assert (health.state, health.reason, health.restarts, health.exit_code) == ("ended", None, 0, 0)


def test_one_that_crashes_at_once_is_started_again_at_growing_pauses(
    short_pauses: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    with started(python("import sys; sys.exit('no such camera')")) as (_, (source,)):
        wait_for(lambda: (source.health().restarts or 0) >= 4, "four restarts")
        wait_for(lambda: source.state == "waiting", "a pause")
        assert source.health().exit_code == 1 and not source.ended
    waits = [record.args[2] for record in caplog.records if "starts again" in record.msg]  # type: ignore[index]
    assert waits[:4] == [0.01, 0.02, 0.04, 0.08]
    assert any("no such camera" in record.getMessage() for record in caplog.records)


def test_without_restart_a_crash_is_the_end_and_status_says_why() -> None:
    with started(python("import os; os.kill(os.getpid(), 9)", restart=False)) as (_, (source,)):
        wait_for(lambda: source.ended, "the end")
        health = source.health()
        assert (health.state, health.reason) == ("ended", "ended with exit code -9")
        assert (health.restarts, health.exit_code) == (0, -9)


def test_one_that_ignores_sigterm_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.with_suffix('.new').write_text(f'{os.getpid()} {child.pid}')\n"
        "path.with_suffix('.new').rename(path)\n"
        "time.sleep(1000)\n"
    )
    with started(python(code, str(pids))) as (_, (source,)):
        wait_for(pids.exists, "the processes")
        assert source.state == "running"
    process, child = map(int, pids.read_text().split())
    assert source.health().exit_code == -9
    wait_for(lambda: gone(process) and gone(child), "the end of both")


def test_one_that_stops_when_told_may_do_so_in_its_own_way(tmp_path: Path) -> None:
    ready, done = tmp_path / "ready", tmp_path / "done"
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    pathlib.Path(sys.argv[2]).touch(); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "while True: time.sleep(0.01)\n"
    )
    with started(python(code, str(ready), str(done))) as (_, (source,)):
        wait_for(ready.exists, "the process")
    assert done.exists() and source.health().exit_code == 7


def test_what_a_process_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'while True: print(1)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    )
    with started(python(code, str(pid), restart=False)) as (_, (source,)):
        wait_for(lambda: source.ended, "the end")
        wait_for(lambda: gone(int(pid.read_text())), "the child's end")


def test_a_flood_of_output_is_bounded_in_the_log_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    code = "import sys\nfor number in range(100_000): print('line', number, 'x' * 1000)\nprint('\\x1b[31mend')"
    with started(python(code, restart=False)) as (_, (source,)):
        wait_for(lambda: source.ended, "the end of 100 MB")
    lines = [record.getMessage() for record in caplog.records if record.msg == "%s: %s%s"]
    left_out = sum(record.args[1] for record in caplog.records if "left out" in record.msg)  # type: ignore[index, misc]
    assert lines[0].startswith("process python") and " line 0 xxx" in lines[0]
    assert max(map(len, lines)) < 500 and not any("\x1b" in line for line in lines)
    assert len(lines) + left_out == 100_001
    assert len(lines) < 10_000


def test_lines_in_a_second_are_counted_anew_and_cut_at_the_same_place_however_they_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log = OutputLog("p")
    for second in (0, 1):
        for number in range(30):
            log.feed(f"{second} {number}\n".encode(), second + number / 100)
    for piece in (b"y" * 300, b"y" * 300, b"z\ntail"):
        log.feed(piece, 2.0)
    log.end()
    messages = [record.getMessage() for record in caplog.records]
    expected = [f"p: 0 {n}" for n in range(20)] + ["p: 10 more lines are left out"]
    expected += [f"p: 1 {n}" for n in range(20)] + ["p: 10 more lines are left out"]
    assert messages == [*expected, "p: " + "y" * 400 + "...", "p: tail"]


def test_it_sees_little_of_the_environment_and_what_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    out = tmp_path / "environment"
    code = "import json, os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sorted(os.environ)))"
    with started(python(code, str(out), environment={"DEVICE": "3"}, restart=False)) as (_, (source,)):
        wait_for(lambda: source.ended, "the end")
    text = out.read_text()
    assert '"DEVICE"' in text and '"PATH"' in text and "SECRET_TOKEN" not in text


def test_a_program_that_vanishes_is_tried_again(tmp_path: Path, short_pauses: None) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with started(config.ProcessSource((str(program),))) as (_, (source,)):
        wait_for(lambda: (source.health().restarts or 0) >= 2, "two restarts")
        assert source.reason == "cannot be started (No such file or directory)"


def test_mistakes_are_named_before_anything_starts() -> None:
    inbox = Inbox()
    with pytest.raises(ConfigError, match="there is no program '/no/such' that may be run"):
        inbox.open(config.ProcessSource(("/no/such",)))
    with pytest.raises(ConfigError, match=r'\{inputs\} is the socket of a row of kind "zmq" above it'):
        inbox.open(python("", "{inputs}"))


def test_one_that_was_opened_but_never_started_runs_nothing(tmp_path: Path) -> None:
    source = Inbox().open(python("import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(tmp_path / "ran")))
    assert isinstance(source, ProcessSource) and source.state == "waiting"
    source.ready()
    source.stop(10.0)
    assert source.health().exit_code is None and not (tmp_path / "ran").exists()


def test_another_town_keeps_the_port_and_the_same_town_goes_on() -> None:
    inbox = Inbox()
    town = config.WorldSource("tcp://127.0.0.1:*", seed=1)
    other = config.WorldSource("tcp://127.0.0.1:*", seed=2)
    running = open_sources(town.rows, tiny.STREAMS, inbox.intake, "tcp://127.0.0.1:9")
    again = open_sources(town.rows, tiny.STREAMS, inbox.intake, "tcp://127.0.0.1:9", running)
    changed = open_sources(other.rows, tiny.STREAMS, inbox.intake, "tcp://127.0.0.1:9", running)
    try:
        assert again == running
        assert changed[0] is running[0] and changed[1] is not running[1]
    finally:
        for source in {*running, *changed}:
            source.stop()
