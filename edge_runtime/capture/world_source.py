"""The built-in world as a source: its process, and the ZeroMQ inputs that it talks to like any other vehicle."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import ClassVar

from edge_runtime import config
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.zmq_source import ZmqSource

log = logging.getLogger("edge_runtime.capture")

STOP_TIMEOUT_S = 1.0


class WorldSource(ZmqSource):
    """Starts `python -m edge_runtime.world drive` and ends with it."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.WorldSource, decisions: str) -> None:
        super().__init__(intake, settings.bind)
        self._settings = settings
        self._decisions = decisions
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = self._settings
        command = [sys.executable, "-m", "edge_runtime.world", "drive"]
        command += ["--inputs", self.endpoint, "--decisions", self._decisions]
        command += ["--seed", str(settings.seed), "--duration", str(settings.duration_s)]
        for what in settings.unplug:
            command += ["--unplug", what]
        command += ["--unplug-at", str(settings.unplug_at_s)]
        if settings.score is not None:
            command += ["--score", settings.score]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        super().start()

    @property
    def ended(self) -> bool:
        return super().ended or (self._process is not None and self._process.poll() is not None)

    def stop(self, timeout_s: float = 1.0) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("world: did not stop within %.1f s; killed", STOP_TIMEOUT_S)
                self._process.kill()
                self._process.wait()
        super().stop(timeout_s)
