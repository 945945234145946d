"""The runtime under measurement with torch's engines, or the CPU's.

python -m benchmarks.gpu.live_process cpu|cuda-python|pycuda BUNDLE DECISIONS-ENDPOINT FRAMES
"""

from __future__ import annotations

import sys

from benchmarks import runtime_process
from benchmarks.gpu.torch_runtime import torch_engines


def main(engine: str, bundle: str, endpoint: str, frames: int) -> None:
    """Run until the workload has been played."""
    if engine == "cpu":
        runtime_process.main(bundle, endpoint, frames)
        return
    with torch_engines(engine) as made:  # type: ignore[arg-type]  # the device checks the name
        runtime_process.main(bundle, endpoint, frames, engine=made.settings)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
