"""The process that listens for a source of kind `voice`: started, spoken to over pipes, and ended here."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from edge_runtime import realtime
from edge_runtime.capture.outages import Outage
from edge_runtime.capture.slow_lane import NICENESS
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.voice import frames
from edge_runtime.voice.grammar import GrammarError
from edge_runtime.voice.pack import PackError

START = "import sys; sys.path[:] = sys.argv[1:]; from edge_runtime.voice.worker import serve; serve()"
"""What it runs, told where this process finds its modules: neither its folder nor its environment may say otherwise."""
OPEN_S = 60.0
"""It reads a grammar and weights; on a machine that does much else that takes some seconds."""
HUNG_S = 30.0
"""One that takes no sound for so long, while there is some, does nothing any more."""
TURN_S = 0.1
READ_BYTES = 1 << 16
_ERRORS: dict[str, type[UserError]] = {cls.__name__: cls for cls in (ConfigError, GrammarError, PackError)}


class ListenerGone(Outage):
    """The process has ended, hangs, or says what cannot be understood."""


class ListenerProcess:
    """As `voice.listener.Listener`, which it runs elsewhere: what is said is told later, by `said`.

    `hear` and `lost` by one thread at a time, which they never hold up; all else by the source's.
    """

    def __init__(self, setup: frames.Setup, stopping: Callable[[], bool]) -> None:
        """Once `stopping` says so, nothing waits any longer."""
        self._setup = setup
        self._stopping = stopping
        self._process: subprocess.Popen[bytes] | None = None
        self._incoming = _incoming()
        self._full_since_s: float | None = None
        self.ended = False
        """Whether all is told that was heard before `end`."""

    def open(self) -> None:
        """Start it where it does not run, and wait until it listens.

        Raises ConfigError, GrammarError, PackError for what it cannot listen with, ListenerGone where it does not come
        so far, InterruptedError when stopping.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def hear(self, pcm: bytes, captured_ns: int) -> bool:
        """A portion of at most 2000 samples (int16, little-endian, 16 kHz); whether there was room for it."""
        taken = self._put(frames.Sound(pcm, captured_ns))
        if taken:
            self._full_since_s = None
        elif self._full_since_s is None:
            self._full_since_s = time.monotonic()
        return taken

    def lost(self) -> bool:
        """Sound is missing here; whether there was room to say so."""
        return self._put(frames.Lost())

    def end(self) -> bool:
        """Nothing more will come; whether there was room to say so."""
        return self._put(frames.End())

    def said(self, timeout_s: float) -> list[frames.Said]:
        """What was said, as soon as it is told, but after `timeout_s` at the latest. Raises ListenerGone."""
        since_s = self._full_since_s
        if since_s is not None and time.monotonic() - since_s > HUNG_S:
            raise ListenerGone(f"the process that listens has taken no sound for {HUNG_S:g} s")
        told = []
        for answer in self._read(timeout_s):
            if isinstance(answer, frames.Told):
                told.append(answer.said)
            elif isinstance(answer, frames.Unfit):
                raise ListenerGone(answer.message)
            self.ended = self.ended or isinstance(answer, frames.Ended)
        return told

    def close(self) -> None:
        """End it at once, whatever it does. Harmless when called again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def _start(self) -> None:
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, *sys.path],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ListenerGone(f"the process that listens cannot be started ({error.strerror})") from None
        realtime.leave(process.pid)
        with suppress(OSError):  # it is gone: that is read below
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._incoming, self._full_since_s, self.ended = _incoming(), None, False
        end_s = time.monotonic() + OPEN_S
        data = memoryview(frames.packed(self._setup))
        opened = False
        while data or not opened:
            if self._stopping():
                raise InterruptedError("stopped")
            if time.monotonic() > end_s:
                raise ListenerGone(f"the process that listens is not ready within {OPEN_S:g} s")
            if data and select.select([], [process.stdin], [], TURN_S)[1]:
                try:
                    data = data[process.stdin.write(data) or 0 :]
                except BrokenPipeError:
                    data = data[:0]  # how it ended is read below
            for answer in self._read(0 if data else TURN_S):
                if isinstance(answer, frames.Unfit):
                    raise _ERRORS.get(answer.kind, UserError)(answer.message)
                opened = opened or isinstance(answer, frames.Opened)

    def _put(self, message: frames.Request) -> bool:
        """A pipe takes what is no longer than PIPE_BUF as a whole, or not at all."""
        data = frames.packed(message)
        assert len(data) <= select.PIPE_BUF
        assert self._process is not None and self._process.stdin is not None
        try:
            return self._process.stdin.write(data) is not None
        except OSError:
            return False  # it has ended: `said` tells how

    def _read(self, timeout_s: float) -> list[frames.Answer]:
        process = self._process
        assert process is not None and process.stdout is not None
        if not select.select([process.stdout], [], [], timeout_s)[0]:
            return []
        data = os.read(process.stdout.fileno(), READ_BYTES)
        if data:
            try:
                return list(self._incoming.messages(data))
            except frames.FrameError as error:
                raise ListenerGone(f"the process that listens says {error}") from None
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            raise ListenerGone("the process that listens says nothing any more") from None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ListenerGone(f"the process that listens has ended with {how}")


def _incoming() -> frames.Incoming[frames.Answer]:
    return frames.Incoming(frames.Answer)  # type: ignore[arg-type]
