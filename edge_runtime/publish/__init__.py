"""Where decisions and status go: the sinks of the run flow."""

from __future__ import annotations

from typing import Protocol

from edge_runtime.wire import DecisionMessage, StatusMessage


class Sink(Protocol):
    """Takes what was decided. All calls from the loop thread; none may block."""

    def decision(self, message: DecisionMessage) -> None:
        """Hand over one decision."""
        ...

    def status(self, message: StatusMessage) -> None:
        """Hand over one status report."""
        ...

    def serve(self) -> None:
        """Called at least 20 times a second: do what is due besides messages."""
        ...

    def close(self) -> None:
        """Pass on what is waiting and free everything. Harmless when called again."""
        ...
