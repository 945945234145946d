"""The runtime under measurement, with the workload as its camera, sensors and voice.

python -m benchmarks.runtime_process BUNDLE DECISIONS-ENDPOINT FRAMES [RECORDING]
"""

from __future__ import annotations

import sys
import time

import cv2

from benchmarks.workload import WorkloadSource, make_workload
from edge_runtime.config import Config, EngineConfig, PublishConfig, RecordConfig
from edge_runtime.runtime import Runtime

SETTLE_S = 0.5
"""The subscriber connects meanwhile."""


class _Patient(WorkloadSource):
    def _run(self) -> None:
        time.sleep(SETTLE_S)
        super()._run()


def main(
    bundle: str, endpoint: str, frames: int, recording: str | None = None, engine: EngineConfig | None = None
) -> None:
    """Run until the workload has been played; `recording` is the MCAP file to write."""
    cv2.setNumThreads(1)
    workload = make_workload()
    config = Config(
        name="benchmark",
        bundle=bundle,
        source=(),
        publish=PublishConfig(endpoint),
        engine=engine or EngineConfig(),
        record=None if recording is None else RecordConfig(recording),
        allow_unsigned=True,
        stop_at_end=True,
    )
    Runtime(config, open_sources=lambda settings, streams, intake, *_: [_Patient(intake, workload, frames)]).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if sys.argv[4:] else None)
