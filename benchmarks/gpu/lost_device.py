"""Lose the GPU in the middle of a run, and tell what the runtime made of it.

    python -m benchmarks.gpu.lost_device cuda-python|pycuda

Prints one JSON line: `lost` (the error says that the device is), `reason`, and who decided in the end.
"""

from __future__ import annotations

import json
import logging
import sys

from msgspec.structs import replace

from benchmarks.gpu.messages import moments
from benchmarks.gpu.torch_runtime import torch_engines
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.cuda import CudaChoice
from edge_runtime.pipeline import Pipeline

BYTES = 64 << 20


def main(cuda: CudaChoice) -> None:
    """Decide, write to memory that has been freed, and go on deciding for ten seconds of message time."""
    logging.disable(logging.CRITICAL)
    bundle = open_bundle(bundle_path("shipped:home"), allow_unsigned=True)
    with torch_engines(cuda) as made:
        pipeline = Pipeline(bundle, replace(made.settings, fallback=True))
        reasons = []
        for index, (now_ns, messages) in enumerate(moments(bundle, 300)):
            for message in messages:
                pipeline.add(message)
            if index == 10:
                _write_astray(made.backends[-1])
            verdict = pipeline.decide(now_ns, now_ns).verdict
            if verdict.source == "safe" and verdict.reason:
                reasons.append(verdict.reason)
        told = [reason for reason in reasons if "lost" in reason]
        answer = {
            "lost": bool(told),
            "reason": (told or reasons or ["no decision was safe"])[0],
            "backend": "+".join(sorted(set(pipeline.backends.values()))),
            "label": f"{verdict.source}, {verdict.label}",
        }
    print(json.dumps(answer), flush=True)


def _write_astray(backend: object) -> None:
    import numpy as np

    from benchmarks.gpu.torch_runtime import TorchBackend

    assert isinstance(backend, TorchBackend)
    with backend.device.scope() as scope:
        stream = backend.device.stream()
        memory = backend.launcher.view(scope.allocate(BYTES), (BYTES // 4,), np.dtype(np.float32))

    def write() -> None:
        memory.fill_(1.0)

    backend.launcher.launch(stream, write)


if __name__ == "__main__":
    main(sys.argv[1])  # type: ignore[arg-type]
    # Nothing on a lost device can be freed: leave without trying.
    sys.stdout.flush()
    import os

    os._exit(0)
