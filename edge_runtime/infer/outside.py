"""Weights that a graph keeps in files of its own: no digest of the graph covers them, so they are never followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.errors import BundleError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto


def outside_files(model: ModelProto) -> list[str]:
    """The files that hold weights of `model`, by name."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    tensors: list[TensorProto] = list(_get_all_tensors(model))
    return sorted(
        {
            entry.value
            for tensor in tensors
            if uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        }
        | {"a file without a name" for tensor in tensors if uses_external_data(tensor) and not tensor.external_data}
    )


def refuse_outside(model: bytes, stage: str) -> None:
    """Raise BundleError where the graph in `model` has weights outside. Cheap for graphs that have none."""
    if b"location" not in model:
        return
    from onnx import load_model_from_string

    try:
        names = outside_files(load_model_from_string(model))
    except Exception:  # what is no graph is refused, in its own words, by what opens it
        return
    if names:
        raise BundleError(
            f"stage {stage}: its graph has weights outside the bundle, in {', '.join(names)}; rebuild it from a "
            "graph that holds them"
        )
