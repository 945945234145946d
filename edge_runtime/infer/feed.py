"""Feed a stage: which stages have anything to read, and the tensors of their inputs.

Used by the live graph, and by evaluation, calibration, quantisation, the gate and the export's proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from edge_runtime.bundle import Stage, StageInput
from edge_runtime.messages import AlignedSet, Tensor, Tensors
from edge_runtime.tensor_source import TensorSource

TensorOf = Callable[[TensorSource], Tensor | None]
"""A source's tensor, with one row (axis 0) or more; None where its stream is absent."""


def feed(stage: Stage, tensor_of: TensorOf) -> Tensors:
    """The inputs of `stage` by name. An input of several sources is theirs, stacked along the first axis; a source
    that is absent is zeros of its share of the input's shape.
    """
    return {item.name: _gathered(item, tensor_of) for item in stage.inputs}


def _gathered(item: StageInput, tensor_of: TensorOf) -> Tensor:
    sources = item.sources
    parts: list[Tensor] = []
    for source in sources:
        tensor = tensor_of(source)
        if tensor is None:
            tensor = np.zeros((item.shape[0] // len(sources), *item.shape[1:]), dtype=item.dtype)
        parts.append(tensor)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=0)


def presence_tensor(streams: Sequence[str], aligned: AlignedSet) -> Tensor:
    """float32 [1, n]: 1.0 for each of `streams` that is present in `aligned`, else 0.0."""
    return np.array([[float(aligned.slices[name].present) for name in streams]], np.float32)


def stages_fed(stages: Iterable[Stage], present: Collection[str]) -> frozenset[str]:
    """Names of the `stages` (in the order they run) that read anything at all while the streams `present` are there.

    A stage reads nothing where all its streams are absent and all the stages before it read nothing; it is not run,
    and its outputs count as zeros. `presence` is always there to be read.
    """
    fed: set[str] = set()
    for stage in stages:
        for source in stage.sources:
            if source.kind == "presence" or source.name in (present if source.kind == "stream" else fed):
                fed.add(stage.name)
                break
    return frozenset(fed)
