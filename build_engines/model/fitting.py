"""What is fitted to a trained model's outputs on moments that it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from build_engines.heads import build_of
from build_engines.heads.fitted import Fitted
from build_engines.heads.training import fit_offsets
from build_engines.recipe import Recipe

Outputs = Mapping[str, tuple[Tensor, Tensor]]
"""Head (the first has an empty name) to raw outputs [N, outputs] and truths of N moments."""


def fit(recipe: Recipe, outputs: Outputs) -> Fitted:
    """What `recipe` wants fitted, to `outputs`."""
    first, truth = outputs[""]
    offsets = fit_offsets(first, truth) if recipe.train.offsets else None
    heads = recipe.heads
    return Fitted(
        () if offsets is None else tuple(round(float(value), 4) for value in offsets),
        build_of(heads[""]).fitted(heads[""], first if offsets is None else first + offsets, truth),
        {name: build_of(head).fitted(head, *outputs[name]) for name, head in heads.items() if name},
    )
