"""What sources share whose other end may be away: it is tried again at growing pauses, and status says why."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod

from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.pauses import Pauses

log = logging.getLogger("edge_runtime.capture")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
"""What has worked for so long has not failed at its start: the pauses begin anew."""


class Outage(Exception):
    """Why the other end is away."""


class ReturningSource(Source):
    """`_session` opens, delivers until `stopping`, and closes; it raises Outage or OSError where it cannot go on."""

    def __init__(self, name: str, intake: Intake) -> None:
        super().__init__(name, intake)
        self._outage: str | None = "not open yet"

    @property
    def state(self) -> str:
        plain = super().state
        return "waiting" if plain == "running" and self._outage is not None else plain

    @property
    def reason(self) -> str | None:
        return super().reason or (None if self.ended else self._outage)

    def _run(self) -> None:
        pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while not self.stopping.is_set():
            began, told = time.monotonic(), self._outage
            try:
                self._session()
                return
            except (Outage, OSError) as error:
                self._outage = str(getattr(error, "strerror", None) or error) or type(error).__name__
            if self._outage != told:  # once per change, not once per try
                log.warning("%s: %s; trying again", self.name, self._outage)
            if time.monotonic() - began >= STEADY_S:
                pauses.succeeded()
            self.stopping.wait(pauses.next_s())

    def _there(self) -> None:
        """The other end is there."""
        if self._outage is not None:
            log.info("%s: open", self.name)
            self._outage = None

    @abstractmethod
    def _session(self) -> None: ...
