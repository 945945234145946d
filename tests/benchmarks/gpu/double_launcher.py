"""torch on the CUDA driver double: kernels work on the memory behind the double's addresses when their turn comes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.cuda.double import Double


class DoubleLauncher:
    """A Launcher for the driver double."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        # Several threads wait for one another at every operator: slow on a machine that has other work too.
        torch.set_num_threads(1)
        self._double = Double()

    def view(self, address: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        nbytes = math.prod(shape) * dtype.itemsize
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return torch.from_numpy(array.view(dtype).reshape(shape))

    def launch(self, stream: int, work: Callable[[], None]) -> None:
        self._double.enqueue(stream, work)

    def close(self) -> None:
        """Nothing is kept."""
