"""The runtime under measurement, with the workload as its camera, sensors and voice.

python -m benchmarks.runtime_process BUNDLE DECISIONS-ENDPOINT FRAMES [PICTURES [RECORDING]]
"""

from __future__ import annotations

import sys
import time

import cv2

from benchmarks.workload import DEFAULT_PICTURES, SETTLE_S, WorkloadSource, make_workload
from edge_runtime.config import Config, EngineConfig, RecordingSink, ZmqSink
from edge_runtime.runtime import Runtime


class _Patient(WorkloadSource):
    def _run(self) -> None:
        time.sleep(SETTLE_S)
        super()._run()


def main(
    bundle: str,
    endpoint: str,
    frames: int,
    pictures: str = DEFAULT_PICTURES,
    recording: str | None = None,
    engine: EngineConfig | None = None,
) -> None:
    """Run until the workload has been played; `recording` is the MCAP file to write."""
    cv2.setNumThreads(1)
    workload = make_workload(pictures)
    config = Config(
        name="benchmark",
        bundle=bundle,
        source=(),
        sink=(ZmqSink(endpoint), *(() if recording is None else (RecordingSink(recording),))),
        engine=engine or EngineConfig(),
        allow_unsigned=True,
        stop_at_end=True,
    )
    Runtime(config, open_sources=lambda settings, streams, intake, *_: [_Patient(intake, workload, frames)]).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:6])  # type: ignore[arg-type]
