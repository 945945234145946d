"""What trains: the processor, or a GPU where torch sees one."""

from __future__ import annotations

import torch
from torch import nn

from build_engines.recipe import Recipe
from edge_runtime.errors import UserError


def device_of(recipe: Recipe) -> torch.device:
    """Where `recipe` is to be trained. Raises UserError for a GPU that torch does not see."""
    wanted = recipe.train.device
    seen = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not seen:
        raise UserError("train.device is 'cuda', but torch sees no GPU; install a torch for it, or set 'auto' or 'cpu'")
    return torch.device("cuda" if seen else "cpu")


def on_gpu(recipe: Recipe) -> bool:
    """Whether it is a GPU."""
    return device_of(recipe).type == "cuda"


def device_in_use(module: nn.Module) -> torch.device:
    """Where the weights of `module` lie."""
    return next(module.parameters()).device
