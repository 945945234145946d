"""What a sink is: something that decisions and status are handed to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from edge_runtime.config import Config
from edge_runtime.messages import Message
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import BundleId, DecisionMessage, RecordingHealth, StatusMessage

_encoder = msgspec.json.Encoder()


class Published(Struct, frozen=True):
    """One message on its way out, encoded once for all sinks."""

    message: DecisionMessage | StatusMessage
    topic: bytes
    """`decision.<name>` or `status.<name>`."""
    payload: bytes
    """UTF-8 JSON."""


def published(message: DecisionMessage | StatusMessage) -> Published:
    """`message` with its topic and its bytes."""
    kind = b"decision." if isinstance(message, DecisionMessage) else b"status."
    return Published(message, kind + message.name.encode(), _encoder.encode(message))


@runtime_checkable
class Records(Protocol):
    """A sink that keeps a recording, and says how far it is."""

    def recording(self) -> RecordingHealth:
        """Any thread."""
        ...


class Sink(ABC):
    """Opened by its constructor, which may raise whatever keeps it from opening: it is tried again later.

    All calls after that come from one thread at a time. One that raises is closed, and opened anew after a pause.
    """

    @abstractmethod
    def publish(self, item: Published) -> None:
        """Hand over one decision or status."""

    def session(self, config: Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:  # noqa: B027
        """A bundle with these streams begins to decide, its memory empty."""

    def message(self, message: Message) -> None:  # noqa: B027
        """The loop took `message` into its memory. Only sinks of the runtime itself are shown messages."""

    @property
    def wants_whole(self) -> bool:
        """Whether messages are to be kept as they came for it, at present, raw pictures too. Any thread."""
        return False

    def serve(self) -> None:  # noqa: B027
        """Called at least 20 times a second: do what is due besides messages."""

    @property
    def missed(self) -> int:
        """Messages that a receiver could not take, each once for every such receiver. Any thread."""
        return 0

    @property
    def trouble(self) -> str | None:
        """Why it can pass nothing on at present, if so; it sees to that itself. Any thread."""
        return None

    @property
    def stopped(self) -> str | None:
        """Why it takes nothing any more for good, if so."""
        return None

    def close(self) -> None:  # noqa: B027
        """Pass on what is waiting and free everything. Harmless when called again."""
