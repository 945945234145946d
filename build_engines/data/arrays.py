"""One stream's tensors in one moment, as training and comparison stack them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.data.columns import Column
from build_engines.modalities import encoder_fields
from edge_runtime.kinds.kind import Preprocess
from edge_runtime.messages import Slice
from edge_runtime.streams import StreamSpec

Arrays = Mapping[str, NDArray[Any] | Column]
"""Name to rows, [N, ...] each: what is small in memory, what encoders read on disk."""


def stream_arrays(spec: StreamSpec, part: Slice, preprocess: Preprocess) -> dict[str, NDArray[Any]]:
    """The tensors that its encoder reads by field, [1, ...] each; zeros where the stream is absent."""
    fields = encoder_fields(spec)
    if part.present:
        tensors = preprocess(part)
        return {name: tensors[name] for name in fields}
    return {name: np.zeros(field.shape, field.dtype) for name, field in fields.items()}
