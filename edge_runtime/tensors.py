"""What a tensor is: name, shape, dtype; and the check that an array meets it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import numpy as np
from msgspec import Meta, Struct

from edge_runtime.errors import EngineError
from edge_runtime.messages import Tensor

DType = Literal["uint8", "int8", "int32", "int64", "float16", "float32", "bool"]
_DTYPES = {name: np.dtype(name) for name in get_args(DType)}


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A named tensor of one fixed shape."""

    name: str
    dtype: DType
    shape: tuple[Annotated[int, Meta(ge=1)], ...]
    layout: str = ""
    """For people: axis order and unit, e.g. `NHWC BGR 0..255`."""


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether `shape` is `expected`, in which -1 stands for any size."""
    return len(shape) == len(expected) and all(want in (-1, size) for size, want in zip(shape, expected, strict=True))


def zeros(spec: TensorSpec) -> Tensor:
    """A zero array that meets `spec`."""
    return np.zeros(spec.shape, dtype=spec.dtype)


def check(spec: TensorSpec, array: Tensor, where: str) -> None:
    """Raise EngineError unless `array` has the dtype and shape of `spec`."""
    if array.dtype != _DTYPES[spec.dtype] or array.shape != spec.shape:
        raise EngineError(
            f"{where}: tensor {spec.name!r} is {array.dtype}{list(array.shape)}, "
            f"expected {spec.dtype}{list(spec.shape)}"
        )
