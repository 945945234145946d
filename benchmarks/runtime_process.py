"""The runtime under measurement, with the workload as its cameras, sensors and voice.

python -m benchmarks.runtime_process PLAY (a benchmarks.workload.Play as JSON)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.workload import Play, WorkloadSource, decode_play, make_workload
from edge_runtime.capture import open_sources
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.config import Config, EngineConfig, RecordingSink, UnixSink, ZmqSink, load_config
from edge_runtime.runtime import Runtime


class _Patient(WorkloadSource):
    def _run(self) -> None:
        time.sleep(self._play.settle_s)
        super()._run()


def main(play: Play, engine: EngineConfig | None = None) -> None:
    """Run until the workload has been played."""
    cv2.setNumThreads(1)
    workload = make_workload(play.pictures)
    sinks: list[Any] = [ZmqSink(play.endpoint)]
    sinks += [] if play.packets is None else [UnixSink(play.packets)]
    sinks += [] if play.recording is None else [RecordingSink(play.recording)]
    beside = None if play.beside is None else load_config(Path(play.beside))
    sinks += [] if beside is None else beside.sink
    config = Config(
        name="benchmark",
        bundle=play.bundle,
        source=() if beside is None else beside.source,
        sink=tuple(sinks),
        engine=engine or EngineConfig(),
        allow_unsigned=True,
        stop_at_end=True,
        realtime=play.realtime,
    )

    def with_workload(settings: Any, streams: Any, intake: Intake, *more: Any) -> list[Source]:
        cameras = [_Patient(intake, workload, play, camera) for camera in play.cameras]
        return [*cameras, *open_sources(settings, streams, intake, *more)]

    Runtime(config, open_sources=with_workload).run()


if __name__ == "__main__":
    main(decode_play(sys.argv[1]))
