"""Weights as others keep them, read as plain data: nothing in a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import UserError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a `.safetensors` file, an `.npz`, or what torch saved (`.pt`, `.pth`, `.bin`; weights only, a
    state dict). Raises UserError."""
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torn and hostile files make the libraries raise whatever their parsers do
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise UserError(f"weights {path}: cannot be read ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path}: hold no state dict; save model.state_dict()")
    return dict(state)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"weights {path}: need the package safetensors, which is not installed; run pip install '.[build]'"
        ) from None
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return tensors


def fill(network: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Put `tensors` into `network`: its own name of each parameter to theirs in `names`. Raises UserError for what is
    missing or of another shape."""
    state = network.state_dict()
    for own in state:
        theirs = names.get(own, own)
        if theirs not in tensors:
            raise UserError(f"weights {path}: lack {theirs}; they are of another network")
        if tensors[theirs].shape != state[own].shape:
            raise UserError(
                f"weights {path}: {theirs} is {list(tensors[theirs].shape)}, not {list(state[own].shape)}; they are of "
                "another network"
            )
    network.load_state_dict({own: tensors[names.get(own, own)] for own in state})
