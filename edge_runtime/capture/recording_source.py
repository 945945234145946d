"""A recording as a source: replay is a capture like any other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from edge_runtime import config
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.playback import wait_until
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.messages import Message
from edge_runtime.recording.reader import Recording
from edge_runtime.streams import StreamSpec

log = logging.getLogger("edge_runtime.capture")


class RecordingSource(Source):
    """Plays a recording's messages at their own spacing, as if they were captured now.

    They go through admission again, and get new numbers. Messages of streams that the bundle lacks are left out.
    """

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.RecordingSource, streams: Mapping[str, StreamSpec]) -> None:
        super().__init__(f"recording {settings.path}", intake)
        self._settings = settings
        self._streams = streams
        try:
            self._recording = Recording(Path(settings.path))
            first = next(self._messages(), None)
        except UserError as error:
            raise ConfigError(f"source recording: {error}") from None
        if first is None:
            raise ConfigError(
                f"source recording: {settings.path} has no message of the bundle's streams {sorted(streams)}"
            )

    def _run(self) -> None:
        while self._play() and self._settings.loop:
            pass

    def _play(self) -> bool:
        """Once from the beginning; False if stopped meanwhile."""
        clock, start_ns = self._intake.clock, self._intake.clock.now_ns()
        first_ns: int | None = None
        for message in self._messages():
            first_ns = message.captured_ns if first_ns is None else first_ns
            due_ns = start_ns + int((message.captured_ns - first_ns) / self._settings.speed)
            if not wait_until(self, due_ns):
                return False
            self._intake.put(message.stream, message, min(due_ns, clock.now_ns()), message.id)
        if self._recording.cut:
            log.warning("%s: its end is missing", self.name)
        return True

    def _messages(self) -> Iterator[Message]:
        for event in self._recording.events():
            if isinstance(event, Message) and event.stream in self._streams:
                yield event
