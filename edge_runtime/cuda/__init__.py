"""CUDA behind one small interface with two back ends, chosen by name. Importing this needs no CUDA."""

from __future__ import annotations

from typing import Literal

from edge_runtime.cuda.device import (
    CudaDevice,
    CudaError,
    CudaUnavailable,
    DeviceInfo,
    Graph,
    Pinned,
    Scope,
    Timer,
)

__all__ = [
    "CudaChoice",
    "CudaDevice",
    "CudaError",
    "CudaUnavailable",
    "DeviceInfo",
    "Graph",
    "Pinned",
    "Scope",
    "Timer",
    "open_cuda",
]

CudaChoice = Literal["auto", "cuda-python", "pycuda"]


def open_cuda(choice: CudaChoice = "auto", ordinal: int = 0) -> CudaDevice:
    """Open device number `ordinal` in and for the calling thread.

    "auto" takes the first back end that opens: cuda-python, which has CUDA graphs, then pycuda.
    Raises CudaUnavailable with each back end's reason in one line.
    """
    # The modules are light: each imports its library when its device opens.
    from edge_runtime.cuda.cuda_python_device import CudaPythonDevice
    from edge_runtime.cuda.pycuda_device import PycudaDevice

    backends: tuple[type[CudaDevice], ...] = (CudaPythonDevice, PycudaDevice)
    reasons = []
    for backend in backends:
        if choice in {"auto", backend.name}:
            try:
                return backend(ordinal)
            except CudaUnavailable as error:
                reasons.append(f"{backend.name}: {error}")
    raise CudaUnavailable(f"CUDA is not usable ({'; '.join(reasons)})")
