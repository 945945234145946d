"""`edge-runtime reload`: have a running service read its configuration again, and say what became of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click
import msgspec
from msgspec import Struct

POLL_S = 0.02


class Answer(Struct, frozen=True):
    """What became of a reload, for the process that asked for it."""

    number: int
    """Counts the reloads of this process up from 1."""
    reason: str | None
    """Why it was refused; None if it was not."""


def answer_file(process: int) -> Path | None:
    """Where the service with this process id leaves its answer; None where no private folder is to be had."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(folder) / f"edge-runtime-{process}.reload" if folder else None


class Answers:
    """The service's end: leaves each answer in the file, whole or not at all."""

    def __init__(self) -> None:
        self._file = answer_file(os.getpid())
        self._number = 0

    def __call__(self, reason: str | None) -> None:
        """On the reload's thread. Raises nothing: that nobody can be told must not end a reload that is done."""
        if self._file is None:
            return
        self._number += 1
        fresh = self._file.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(Answer(self._number, reason)))
            fresh.replace(self._file)
        except OSError:
            pass

    def close(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


@click.command()
@click.argument("process", metavar="PID", type=click.IntRange(1))
@click.option("--timeout", default=100.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
def reload(process: int, timeout: float) -> None:
    """Have the `run` with process id PID read its configuration again; exit code 2 and the reason if it is refused.

    For `ExecReload=`: both must see the same RUNTIME_DIRECTORY (or XDG_RUNTIME_DIR).
    """
    from edge_runtime.errors import UserError

    file = answer_file(process)
    if file is None:
        raise UserError("reload: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set; use kill -HUP and read the log")
    before = _read(file)
    try:
        os.kill(process, signal.SIGHUP)
        deadline = time.monotonic() + timeout
        while (answer := _read(file)) == before:
            if time.monotonic() > deadline:
                raise UserError(f"reload: no answer within {timeout:g} s; it goes on opening, see the log")
            time.sleep(POLL_S)
            os.kill(process, 0)
    except OSError as error:
        raise UserError(f"reload {process}: {error.strerror}; is it running, and yours?") from None
    if answer is not None and answer.reason is not None:
        raise UserError(f"reload refused, the old configuration goes on: {answer.reason}")


def _read(file: Path) -> Answer | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Answer)
    except OSError:
        return None
