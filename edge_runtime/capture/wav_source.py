"""A WAV file as a microphone: its sound in chunks, at its own rate."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edge_runtime import config
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.playback import log_end, wait_until
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.wav import WavError, read_wav


class WavSource(Source):
    """Plays a file of 16 kHz mono 16-bit PCM; every chunk is captured when its last sample would be."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.WavSource) -> None:
        super().__init__(f"wav {settings.path}", intake)
        self._row = settings
        try:
            self._pcm = read_wav(Path(settings.path))
        except WavError as error:
            raise ConfigError(f"source wav: {settings.path} {error}") from None

    def _run(self) -> None:
        row, clock = self._row, self._intake.clock
        size = max(1, row.chunk_ms * SAMPLE_RATE // 1000)
        begin_ns, read, before = clock.now_ns(), 0, self._intake.refusals(row.stream)
        while True:
            for start in range(0, len(self._pcm), size):
                chunk = self._pcm[start : start + size]
                due_ns = begin_ns + int((start + len(chunk)) * 1e9 / SAMPLE_RATE / row.speed)
                if not wait_until(self, due_ns):
                    return
                read += 1
                self._intake.put(row.stream, chunk, min(due_ns, clock.now_ns()))
            if not row.loop:
                break
            begin_ns = due_ns
        log_end(self, self._intake, row.stream, before, read, "chunks")
