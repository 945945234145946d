"""The yardstick: the script that a user would write. Decode, resize, one whole graph, `json.dumps`, ZeroMQ.

    python -m benchmarks.user_loop MONOLITH.onnx INPUTS.npz ENDPOINT FRAMES [PICTURES]

One paced loop; no threads, no checks, no accounts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.user_work import UserWork, run_loop
from benchmarks.workload import DEFAULT_PICTURES, make_workload


def main(model: Path, inputs: Path, endpoint: str, frames: int, pictures: str = DEFAULT_PICTURES) -> None:
    """Run `frames` frames; every answer is published as JSON at `endpoint`."""
    work = UserWork(model, inputs)
    run_loop(work, make_workload(pictures), endpoint, frames, work.infer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
