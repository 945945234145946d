"""One stream's tensors in one moment, as training and comparison stack them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.kinds.kind import Preprocess
from edge_runtime.messages import Slice
from edge_runtime.streams import StreamSpec, kind_of

Arrays = dict[str, NDArray[np.generic]]


def stream_arrays(spec: StreamSpec, part: Slice, preprocess: Preprocess) -> Arrays:
    """The stream's tensors by field, [1, ...] each; zeros where it is absent."""
    if part.present:
        return dict(preprocess(part))
    return {name: np.zeros(field.shape, field.dtype) for name, field in kind_of(spec).fields(spec).items()}
