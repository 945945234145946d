"""Open a bundle on the GPU and decide once, in a process of its own; one JSON line says when what was done.

python -m benchmarks.gpu.first_decision cuda-python|pycuda
"""

from __future__ import annotations

import json
import sys
import time

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.cuda import open_cuda


def main(cuda: str) -> None:
    """Seconds of each step; `decided_at` is the monotonic clock's."""
    start = time.monotonic()
    with open_cuda(cuda) as device:  # type: ignore[arg-type]  # the device checks the name
        opened = time.monotonic()
        bundle = open_bundle(bundle_path("shipped:home"), allow_unsigned=True)
        from benchmarks.gpu.messages import moments
        from benchmarks.gpu.torch_runtime import torch_engines
        from edge_runtime.pipeline import Pipeline

        imported = time.monotonic()
        with torch_engines(cuda) as made:  # type: ignore[arg-type]
            pipeline = Pipeline(bundle, made.settings)
            ready = time.monotonic()
            for now_ns, messages in moments(bundle, 1):
                for message in messages:
                    pipeline.add(message)
                verdict = pipeline.decide(now_ns, now_ns).verdict
            decided = time.monotonic()
            pipeline.close()
        device.info()
    steps = {"cuda_s": opened - start, "import_torch_s": imported - opened, "engines_s": ready - imported}
    print(json.dumps(steps | {"decide_s": decided - ready, "decided_at": decided, "source": verdict.source}))


if __name__ == "__main__":
    main(sys.argv[1])
