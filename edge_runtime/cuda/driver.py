"""What the NVIDIA driver of this machine serves, asked without any CUDA package."""

from __future__ import annotations

import ctypes

LIBRARY = "libcuda.so.1"
CUDA_13 = 13000


def served_cuda() -> int | None:
    """The newest CUDA version that the driver serves, as 1000 * major + 10 * minor (12060: 12.6); None without one.

    By cuDriverGetVersion, which needs no GPU and no context. Any thread.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def readable(served: int) -> str:
    """12060 as "12.6"."""
    return f"{served // 1000}.{served % 1000 // 10}"


def how_to_install(served: int | None) -> str:
    """The command that installs the bindings for a driver that serves CUDA `served`; for either kind if None.

    Bindings call what their own major version has, so they must not be newer than the driver; older ones are fine.
    """
    if served is None:
        return "pip install 'edge-runtime[cuda13]', or [cuda12] for a driver of CUDA 12 (JetPack 6)"
    return f"pip install 'edge-runtime[{'cuda13' if served >= CUDA_13 else 'cuda12'}]'"
