"""The process that listens, with hums for speech: what `listener_process.START` is replaced by in tests."""

from __future__ import annotations

from edge_runtime.voice import worker
from tests.voice.sounds import loudness

START = "import sys; sys.path[:] = sys.argv[1:]; from tests.voice.by_loudness import serve; serve()"


def serve() -> None:
    worker.serve(lambda: loudness)
