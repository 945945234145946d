"""Weights on disk: plain named arrays, never pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import UserError


def save_weights(model: nn.Module, path: Path) -> None:
    """All weights by name as plain arrays."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(path, **arrays)


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the arrays at `path` into `model`. Raises UserError if they are another model's."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state: Mapping[str, Tensor] = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        model.load_state_dict(state)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"weights {path}: do not fit the recipe's model ({reason}); run the train stage again"
        ) from None
