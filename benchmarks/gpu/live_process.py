"""The runtime under measurement with torch's engines, or the CPU's.

python -m benchmarks.gpu.live_process cpu|cuda-python|pycuda PLAY (a benchmarks.workload.Play as JSON)
"""

from __future__ import annotations

import sys

from benchmarks import runtime_process
from benchmarks.gpu.torch_runtime import torch_engines
from benchmarks.workload import Play, decode_play


def main(engine: str, play: Play) -> None:
    """Run until the workload has been played."""
    if engine == "cpu":
        runtime_process.main(play)
        return
    with torch_engines(engine) as made:  # type: ignore[arg-type]  # the device checks the name
        runtime_process.main(play, engine=made.settings)


if __name__ == "__main__":
    main(sys.argv[1], decode_play(sys.argv[2]))
