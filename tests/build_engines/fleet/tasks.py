"""Tasks that go wrong, in modules that workers can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_engines.fleet.looking import Looking
from build_engines.fleet.tally import Look
from edge_runtime.errors import UserError


@dataclass(frozen=True)
class Dying:
    """As `task`, but at the recording called `victim` its process is killed: the first time, or every time."""

    task: Looking
    victim: str
    marker: str
    """A file that says that it has happened; empty: every time."""

    @property
    def key(self) -> str:
        return self.task.key

    def open(self) -> Callable[[Path], Look]:
        look = self.task.open()

        def dying(path: Path) -> Look:
            if path.stem == self.victim and not (self.marker and Path(self.marker).exists()):
                if self.marker:
                    Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return look(path)

        return dying


@dataclass(frozen=True)
class Unopened:
    """Cannot be opened."""

    key: str = "unopened"

    def open(self) -> Callable[[Path], Look]:
        raise UserError("the bundle is gone")
