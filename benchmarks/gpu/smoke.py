"""Every stage once through both ways to CUDA: little work, for tools that make all work slow.

python -m benchmarks.gpu.smoke
"""

from __future__ import annotations

from benchmarks.gpu.engine import engines
from benchmarks.gpu.tensorrt import CUDA, moments
from benchmarks.gpu.torch_runtime import CudaLauncher
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.cuda import open_cuda
from edge_runtime.errors import UserError


def main() -> None:
    """Open, warm up (which captures a graph where there are graphs), run, close."""
    bundle = open_bundle(bundle_path("shipped:home"), allow_unsigned=True)
    inputs = moments(bundle, 1)
    for cuda in CUDA:
        try:
            open_cuda(cuda).close()
        except UserError as reason:
            print(f"{cuda}: {reason}")
            continue
        with engines(bundle, cuda, CudaLauncher) as opened:
            for name, engine in opened.items():
                engine.warm_up(inputs[name][0])
                engine.run(inputs[name][0])
        print(f"{cuda}: {len(opened)} stages ran")


if __name__ == "__main__":
    main()
