from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from edge_runtime.cuda.driver import how_to_install, readable, served_cuda
from tests.cuda.double import Double


@pytest.mark.driver_double
def test_the_driver_is_asked_before_anything_of_cuda_is_open(double: Double) -> None:
    assert served_cuda() == 13000
    double.fail("cuDriverGetVersion", 999)
    assert served_cuda() is None


def test_without_a_driver_there_is_no_version() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert served_cuda() is None
    else:
        pytest.skip("this machine has an NVIDIA driver")


@pytest.mark.parametrize(
    ("served", "text", "extra"),
    [(12020, "12.2", "cuda12"), (12060, "12.6", "cuda12"), (12090, "12.9", "cuda12"), (13000, "13.0", "cuda13")],
)
def test_bindings_are_of_the_driver_s_major_version(served: int, text: str, extra: str) -> None:
    assert readable(served) == text
    assert how_to_install(served) == f"pip install 'edge-runtime[{extra}]'"


def test_without_a_driver_both_are_named() -> None:
    assert "[cuda13]" in how_to_install(None) and "[cuda12]" in how_to_install(None)


@pytest.mark.driver_double
def test_bindings_that_are_missing_are_named_for_the_driver_at_hand() -> None:
    script = """
import sys
sys.modules["cuda"] = None
from edge_runtime.cuda import CudaUnavailable, open_cuda
try:
    open_cuda("cuda-python")
except CudaUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("pip install 'edge-runtime[cuda13]')\n")
