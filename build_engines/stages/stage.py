"""What a stage of the build is: its contract, what it does, and what its results depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from build_engines.build import Build
from build_engines.recipe import Recipe, own_files

if TYPE_CHECKING:
    from build_engines.model.train import TrainingRecord


@dataclass(frozen=True)
class BuildStage:
    """One row of the table."""

    run: Callable[[Build], None]
    requires: Callable[[Build], Sequence[str]]
    """Paths below the work folder that must be there, and whose contents matter."""
    ensures: Callable[[Build], Sequence[str]]
    """Paths below the work folder that are there afterwards."""
    settings: Callable[[Build], Any]
    """The part of the recipe that matters."""
    code: Sequence[str]
    """Modules whose source, and all that it imports of this project, makes the stage's results."""
    splits: Callable[[Build], Sequence[str]] = lambda build: ()
    """Splits of the data folder whose contents matter."""


def without_later(build: Build) -> Any:
    """The recipe without what only later stages read, so that changing a limit does not train again; with the digests
    of networks that it names by file."""
    recipe = msgspec.to_builtins(build.recipe)
    later = ("calibrate", "quantise", "compile", "gate", "budget", "trial", "grammar")
    settings = {name: value for name, value in recipe.items() if name not in later}
    return settings | ({"files": files} if (files := own_files(build.recipe)) else {})


def training_settings(build: Build) -> Any:
    """The part that the weights depend on: the policy is for those who decide with them."""
    return {name: value for name, value in without_later(build).items() if name != "decision"}


def trained_recipe(build: Build) -> Recipe:
    """The recipe of a model to be trained, as it was chosen to be."""
    from build_engines.choice.choice import chosen_recipe

    assert isinstance(build.recipe, Recipe)
    return chosen_recipe(build.recipe, build.work)


def last_epoch(recipe: Recipe, record: TrainingRecord) -> str:
    """What training came to, in words."""
    from build_engines.heads import build_of

    last = record.epochs[-1]
    return f"val accuracy {last.val_accuracy:.3f}, {build_of(recipe.output_head).figure} {last.val_figure:.3f}"
