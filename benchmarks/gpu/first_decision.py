"""Open a bundle on the GPU and decide once, in a process of its own; one JSON line says when what was done.

python -m benchmarks.gpu.first_decision torch|tensorrt cuda-python|pycuda BUNDLE [CACHE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaChoice, open_cuda
from edge_runtime.errors import EngineError

Engines = Literal["torch", "tensorrt"]
TIMEOUT_S = 60


def first_decision(engines: Engines, cuda: CudaChoice, bundle: str, cache: Path | None = None) -> dict[str, float]:
    """Seconds of each step, and `total_s` from the start of the process (its imports included) to its first decision.
    `cache`: of TensorRT's engines. Raises EngineError where it does not come to one.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.first_decision", engines, cuda, bundle, str(cache or "")]
    start = time.monotonic()
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"first decision: none within {TIMEOUT_S} s") from None
    if result.returncode:
        raise EngineError(f"first decision: {(result.stderr.strip().splitlines() or ['no answer'])[-1]}")
    steps: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return steps | {"total_s": steps.pop("decided_at") - start}


def main(engines: str, cuda: CudaChoice, name: str, cache: str = "") -> None:
    """Print the seconds of each step; `decided_at` is the monotonic clock's."""
    start = time.monotonic()
    with open_cuda(cuda):
        opened = time.monotonic()
        bundle = open_bundle(bundle_path(name), allow_unsigned=True)
        from benchmarks.gpu.messages import moments
        from edge_runtime.pipeline import Pipeline

        with _settings(engines, cuda, cache) as settings:
            imported = time.monotonic()
            pipeline = Pipeline(bundle, settings)
            ready = time.monotonic()
            for now_ns, messages in moments(bundle, 1):
                for message in messages:
                    pipeline.add(message)
                verdict = pipeline.decide(now_ns, now_ns).verdict
            decided = time.monotonic()
            pipeline.close()
    if verdict.source != "model":
        raise EngineError(f"the model did not decide: {verdict.reason}")
    steps = {"cuda_s": opened - start, "import_s": imported - opened, "engines_s": ready - imported}
    print(json.dumps(steps | {"decide_s": decided - ready, "decided_at": decided}))


@contextmanager
def _settings(engines: str, cuda: CudaChoice, cache: str) -> Iterator[EngineConfig]:
    if engines == "tensorrt":
        yield EngineConfig("tensorrt", cuda=cuda, cache=cache, fallback=False)
    else:
        from benchmarks.gpu.torch_runtime import torch_engines

        with torch_engines(cuda) as made:
            yield made.settings


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # the device checks the name of the way to CUDA
