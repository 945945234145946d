"""Transcripts of Wyoming's satellites and pipelines: the source of kind `wyoming`, a service that handles text."""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime import config, sockets
from edge_runtime.admit import Refusal
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.shares import MIN_RATE_HZ, OVER_RATE, Share
from edge_runtime.capture.source import Source
from edge_runtime.messages import Words
from edge_runtime.voice.wyoming import Incoming, WyomingError, encoded, sentence_of

if TYPE_CHECKING:
    from wyoming.event import Event

MAX_CONNECTIONS = 16
TURN_S = 0.1
TURN_BYTES = 64 << 10
"""Read of one connection before the others have their turn."""


class WyomingSource(Source):
    """Listens for programs that have made text of speech: each `transcript` is a sentence, as old as its arrival.

    Whatever comes is taken, or refused and counted; nothing raises, nothing ends it. Who sends what is no Wyoming is
    cut off, counted as `malformed`. Of more than MAX_CONNECTIONS the one gives way that has been silent for longest.
    Sound is let pass: this makes no text of it.
    """

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(self, intake: Intake, row: config.WyomingSource) -> None:
        """Raises ConfigError, HeldError where somebody listens there already."""
        self._listener = sockets.listen(row.bind, "source wyoming bind")
        self.endpoint = self._listener.endpoint
        super().__init__(f"wyoming {self.endpoint}", intake)
        self._row = row
        self._connections: dict[socket.socket, tuple[Incoming, float]] = {}
        """What has come of each, and when something did."""
        self._spare = sockets.Spare()
        self._share = Share(MIN_RATE_HZ, intake.clock.now_ns())

    def _run(self) -> None:
        listening = self._listener.socket
        listening.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(listening, selectors.EVENT_READ)
            while not self.stopping.is_set():
                for key, _ in selector.select(TURN_S):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is listening:
                        self._welcome(selector)
                    elif key.fileobj in self._connections and not self._hear(key.fileobj):
                        self._drop(selector, key.fileobj)

    def _close(self) -> None:
        self._listener.close()
        self._spare.close()
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _welcome(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except BlockingIOError:
            return
        except OSError:  # it has gone again, or there is no file descriptor left
            self._spare.turn_away(self._listener.socket)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(selector, min(self._connections, key=lambda one: self._connections[one][1]))
        connection.setblocking(False)
        self._connections[connection] = Incoming(), time.monotonic()
        selector.register(connection, selectors.EVENT_READ)

    def _drop(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        selector.unregister(connection)
        del self._connections[connection]
        connection.close()

    def _hear(self, connection: socket.socket) -> bool:
        """Take what has come; whether the connection stays."""
        incoming, _ = self._connections[connection]
        try:
            data = connection.recv(TURN_BYTES)
            if not data:
                return False
            self._connections[connection] = incoming, time.monotonic()
            for event in incoming.events(data):
                if (answer := self._take(event)) is not None:
                    connection.send(encoded(answer), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return True  # nothing waits, or it does not read its answers and goes without
        except WyomingError as error:
            self._intake.refuse(self._row.stream, Refusal("malformed", str(error)))
            return False
        except OSError:
            return False
        return True

    def _take(self, event: Event) -> Event | None:
        """The answer, if there is one to give."""
        from wyoming.asr import Transcript
        from wyoming.handle import Handled, NotHandled
        from wyoming.info import Describe
        from wyoming.ping import Ping, Pong

        if Describe.is_type(event.type):
            return _info()
        if Ping.is_type(event.type):
            text = event.data.get("text") if isinstance(event.data, dict) else None
            return Pong(text=text if isinstance(text, str) else None).event()
        if not Transcript.is_type(event.type):
            return None
        refusal = self._sentence(event)
        return Handled().event() if refusal is None else NotHandled(text=refusal.reason).event()

    def _sentence(self, event: Event) -> Refusal | None:
        intake, stream = self._intake, self._row.stream
        text, lang = sentence_of(event)
        refusal = None
        if text is None:
            refusal = Refusal("malformed", "a transcript without text")
        elif intake.needs_stamp(stream):
            refusal = Refusal("no_stamp", "this stream's messages must say when they were captured")
        elif not self._share.take(intake.clock.now_ns()):
            refusal = Refusal(OVER_RATE)
        if refusal is not None or text is None:
            assert refusal is not None
            intake.refuse(stream, refusal)
            return refusal
        intake.put(stream, Words(text, lang))
        return None


def _info() -> Event:
    from wyoming.info import Attribution, HandleModel, HandleProgram, Info

    us: dict[str, Any] = {
        "name": "edge-runtime",
        "attribution": Attribution(name="edge-runtime", url=""),
        "installed": True,
        "description": "Takes sentences for a fused model",
        "version": None,
    }
    return Info(handle=[HandleProgram(**us, models=[HandleModel(**us, languages=[])])]).event()
