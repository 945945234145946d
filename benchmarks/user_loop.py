"""The yardstick: the script that a user would write. Decode, resize, one whole graph, `json.dumps`, ZeroMQ.

    python -m benchmarks.user_loop MONOLITH.onnx INPUTS.npz ENDPOINT FRAMES [PICTURES]

One paced loop; no threads, no checks, no accounts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.user_work import Pace, Publisher, UserWork
from benchmarks.workload import DEFAULT_PICTURES, make_workload


def main(model: Path, inputs: Path, endpoint: str, frames: int, pictures: str = DEFAULT_PICTURES) -> None:
    """Run `frames` frames; every answer is published as JSON at `endpoint`."""
    workload = make_workload(pictures)
    work = UserWork(model, inputs)
    publisher = Publisher(endpoint)
    pace = Pace()
    for index in range(frames):
        pace.wait()
        given = workload.picture(index)
        captured_ns = time.monotonic_ns()
        image = work.prepare(given)
        prepared_ns = time.monotonic_ns()
        logits = work.infer(image)
        publisher.send(work.message(index, captured_ns, prepared_ns, time.monotonic_ns(), logits))
    publisher.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
