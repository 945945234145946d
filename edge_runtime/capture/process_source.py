"""Another program as a source: started, supervised and ended here; what it senses it sends over ZeroMQ."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from edge_runtime import config, realtime
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.pauses import Pauses
from edge_runtime.wire import SourceHealth

log = logging.getLogger("edge_runtime.capture")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
"""One that ran for so long has not failed at its start: the pauses begin anew."""
TERMINATE_S = 0.7
"""Between SIGTERM and SIGKILL; a session gives its sources a second to stop."""
TURN_S = 0.05
READ_BYTES = 1 << 16
LAST_READS = 4
"""After the end: all that a pipe holds, though something else may still write to it."""
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""All that a process sees of the runtime's own environment."""


class ProcessSource(Source):
    """Runs a command in a process group of its own, again after it has ended unless `restart` is off.

    The whole group ends with the source, and with the command: nothing that it started is left behind.
    """

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.ProcessSource, inputs: str, decisions: str) -> None:
        """`inputs` and `decisions`: what `{inputs}` and `{decisions}` in the command stand for.

        Raises ConfigError where there is no such program or no socket to send to.
        """
        super().__init__(f"process {settings.name or Path(settings.command[0]).name}", intake)
        command = " ".join(settings.command)
        if "{inputs}" in command and not inputs:
            raise ConfigError(
                f'source {self.name}: {{inputs}} is the socket of a row of kind "zmq" above it, and there is none'
            )
        self._restart = settings.restart
        self._command = [
            part.replace("{inputs}", inputs).replace("{decisions}", decisions) for part in settings.command
        ]
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._environment = inherited | settings.environment
        if shutil.which(self._command[0], path=self._environment.get("PATH")) is None:
            raise ConfigError(f"source {self.name}: there is no program {self._command[0]!r} that may be run")
        self._state = "waiting"
        self._restarts = 0
        self._exit_code: int | None = None
        self._last_failure: str | None = None

    @property
    def state(self) -> str:
        return super().state if self._failure is not None or self.ended else self._state

    @property
    def reason(self) -> str | None:
        if self._failure is not None:
            return self._failure
        as_wished = self._state == "running" or (self.ended and self._exit_code == 0)
        return None if as_wished else self._last_failure

    def health(self) -> SourceHealth:
        return SourceHealth(self.name, self.state, self.reason, self._restarts, self._exit_code)

    def _run(self) -> None:
        pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            started = time.monotonic()
            self._supervise()
            if self.stopping.is_set() or not self._restart:
                return
            if time.monotonic() - started >= STEADY_S:
                pauses.succeeded()
            wait_s = pauses.next_s()
            log.warning("%s: %s; starts again in %.1f s", self.name, self._last_failure, wait_s)
            if self.stopping.wait(wait_s):
                return
            self._restarts += 1

    def _supervise(self) -> None:
        """From the process's start to its end."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            self._last_failure = f"cannot be started ({error.strerror})"
            return
        realtime.leave(process.pid)
        output = process.stdout
        assert output is not None
        self._state = "running"
        try:
            self._relay(process, output.fileno())
            if self.stopping.is_set():
                self._terminate(process)
        finally:
            # Not reaped yet, so that the group's number is still its own.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            self._exit_code = process.wait()
            output.close()
            self._last_failure = f"ended with exit code {self._exit_code}"
            self._state = "waiting"

    def _relay(self, process: subprocess.Popen[bytes], output: int) -> None:
        """Log what the process says until it has ended or is to be stopped."""
        lines = OutputLog(self.name)
        silent = False
        while not self.stopping.is_set() and not _has_ended(process):
            if silent:  # it closed its output, and goes on
                self.stopping.wait(TURN_S)
            elif select.select([output], [], [], TURN_S)[0]:
                data = os.read(output, READ_BYTES)
                lines.feed(data, time.monotonic())
                silent = not data
        for _ in range(LAST_READS):
            if select.select([output], [], [], 0)[0]:
                lines.feed(os.read(output, READ_BYTES), time.monotonic())
        lines.end()

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the group to end, and wait for the process; what it says now is no longer read."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERMINATE_S
        while not _has_ended(process):
            if time.monotonic() > deadline:
                log.warning("%s: did not stop within %.1f s; killed", self.name, TERMINATE_S)
                return
            time.sleep(0.01)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it stays a zombie, and its group's number taken."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class OutputLog:
    """A process's output as lines of our log: so long and so many in a second at most; the rest is counted."""

    LINE_BYTES = 400
    LINES_PER_S = 20

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = b""
        self._second = 0
        self._written = 0
        self._left_out = 0

    def feed(self, data: bytes, now_s: float) -> None:
        """What was read at `now_s` seconds of a clock that runs forwards."""
        if int(now_s) != self._second:
            self._end_second()
            self._second = int(now_s)
        *whole, rest = data.split(b"\n") if self._written < self.LINES_PER_S else self._skip(data)
        for piece in whole:
            self._add(piece)
            self._write()
        self._add(rest)

    def end(self) -> None:
        """Nothing more will come."""
        self._write()
        self._end_second()

    def _skip(self, data: bytes) -> list[bytes]:
        """Count lines without taking them apart; the first ends the line in hand."""
        count = data.count(b"\n")
        if count:
            self._left_out += count
            self._line = b""
        return [data[data.rfind(b"\n") + 1 :]]

    def _add(self, piece: bytes) -> None:
        self._line += piece[: self.LINE_BYTES + 1 - len(self._line)]

    def _write(self) -> None:
        line, self._line = self._line.rstrip(b"\r"), b""
        if not line:
            return
        if self._written >= self.LINES_PER_S:
            self._left_out += 1
            return
        self._written += 1
        text = line[: self.LINE_BYTES].decode("utf-8", "replace")
        shown = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        log.info("%s: %s%s", self._name, shown, "..." if len(line) > self.LINE_BYTES else "")

    def _end_second(self) -> None:
        if self._left_out:
            log.warning("%s: %d more lines are left out", self._name, self._left_out)
        self._written = self._left_out = 0
