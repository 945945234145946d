"""The keys of `[choose]`: what is chosen by cross-validation inside the training split."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct


class ChooseRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The training split is parted into folds by `dataset.group`; each is left out once, and what is chosen and fitted
    (temperature, thresholds, offsets) is so by the moments left out. The evaluated split sees one model."""

    folds: Annotated[int, Meta(ge=0, le=50)] = 4
    """How many folds, each a training; 0 = none: temperature, thresholds and offsets are then fitted on the evaluated
    split itself, which flatters what is reported there."""
    single: bool = False
    """Also train each modality alone; where fusing them is no better, the best one ships alone."""
    candidates: tuple[dict[str, Any], ...] = ()
    """Other settings to try, each a table of this recipe's keys (with dots) to values. One is taken where it is better
    than the recipe's own by more than the standard error of the difference over groups."""
