"""Every test of a device runs on the driver double, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from edge_runtime.cuda import CudaDevice, CudaUnavailable, open_cuda
from tests.cuda.devices import ON_DOUBLE, ON_GPU
from tests.cuda.double import Double, pytest_configure, pytest_pyfunc_call, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_pyfunc_call", "pytest_runtest_setup"]


@pytest.fixture(params=[*ON_DOUBLE, *ON_GPU])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A back end's name. Whatever a test does, nothing is left on the double after it."""
    name = request.param
    if request.node.get_closest_marker("driver_double"):
        if name == "pycuda" and importlib.util.find_spec("pycuda") is None:
            pytest.skip("PyCUDA is not installed; `python -m tests.cuda.build_pycuda` builds it")
        before = Double().counts()
        yield name
        assert Double().counts() == before
        assert Double().depth() == 0
    else:
        try:
            open_cuda(name).close()
        except CudaUnavailable as error:
            pytest.skip(str(error))
        yield name


@pytest.fixture
def device(backend: Any) -> Iterator[CudaDevice]:
    with open_cuda(backend) as opened:
        yield opened


@pytest.fixture
def double() -> Double:
    return Double()
