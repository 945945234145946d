"""What the tests of CUDA devices share: the back ends they run on, and work for a device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.cuda import CudaDevice, Scope

BACKENDS = ("cuda-python", "pycuda")
ON_DOUBLE = [pytest.param(name, marks=pytest.mark.driver_double, id=f"{name}-double") for name in BACKENDS]
ON_GPU = [pytest.param(name, id=f"{name}-gpu") for name in BACKENDS]

on_double = pytest.mark.parametrize("backend", ON_DOUBLE, indirect=True)
with_graphs = pytest.mark.parametrize("backend", [ON_DOUBLE[0], ON_GPU[0]], indirect=True)
graphs_on_double = pytest.mark.parametrize("backend", ON_DOUBLE[:1], indirect=True)


def pinned(scope: Scope, values: NDArray[Any]) -> NDArray[Any]:
    """A pinned copy of `values`."""
    array = scope.pinned(values.shape, values.dtype).array
    array[...] = values
    return array


def in_thread(work: Callable[[], None], name: str = "other") -> list[BaseException]:
    """Do `work` in a thread of that name; what it raised."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=name)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return errors


class Doubling:
    """An input and an output of eight numbers, and work that carries one to the other through the device."""

    def __init__(self, device: CudaDevice, scope: Scope | None = None) -> None:
        scope = scope or device
        self.device = device
        self.stream = scope.stream()
        self.source = pinned(scope, np.zeros(8, np.float32))
        self.target = pinned(scope, np.zeros(8, np.float32))
        self.pointer = scope.allocate(self.source.nbytes)

    def enqueue(self) -> None:
        self.device.upload(self.pointer, self.source, self.stream)
        self.device.download(self.target, self.pointer, self.stream)
