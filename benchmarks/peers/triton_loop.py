"""The user's loop, with the graph served by Triton (PyTriton) on this machine and asked for over gRPC.

python -m benchmarks.peers.triton_loop MONOLITH.onnx INPUTS.npz ENDPOINT FRAMES [PICTURES]
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.client import ModelClient
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.user_work import UserWork, run_loop
from benchmarks.workload import DEFAULT_PICTURES, make_workload


def main(model: Path, inputs: Path, endpoint: str, frames: int, pictures: str = DEFAULT_PICTURES) -> None:
    """Run `frames` frames; every answer is published as JSON at `endpoint`."""
    workload = make_workload(pictures)
    work = UserWork(model, inputs)
    shape = work.prepare(workload.picture(0)).shape[1:]

    @batch  # type: ignore[untyped-decorator]
    def infer(image: Any) -> dict[str, Any]:
        return {"logits": work.infer(image)[None]}

    http, grpc, metrics = (_free_port() for _ in range(3))
    settings = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics, log_verbose=0)
    with Triton(config=settings) as triton:
        triton.bind(
            model_name="fused",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.uint8, shape=shape)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=1),
            strict=False,
        )
        triton.run()
        with ModelClient(f"grpc://127.0.0.1:{grpc}", "fused") as client:
            for _ in range(30):
                client.infer_batch(work.prepare(workload.picture(0)))
            run_loop(work, workload, endpoint, frames, lambda image: client.infer_batch(image)["logits"][0])


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
