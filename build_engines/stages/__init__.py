"""The build's stages as a visible, ordered table. A stage is a module: its row, and what it does.

A stage reads what those before it left in the work folder. To add one: its module, and its row here.
"""

from __future__ import annotations

from build_engines.recipe import AnyRecipe, OnnxRecipe
from build_engines.stages import adopt, aggregate, bundle, calibrate, choose, compile, evaluate, export, quantise, train
from build_engines.stages.stage import BuildStage

TRAINED: dict[str, BuildStage] = {
    "choose": choose.STAGE,
    "train": train.STAGE,
    "export": export.STAGE,
    "aggregate": aggregate.STAGE,
}
ADOPTED: dict[str, BuildStage] = {"adopt": adopt.STAGE}
COMMON: dict[str, BuildStage] = {
    "calibrate": calibrate.STAGE,
    "quantise": quantise.STAGE,
    "compile": compile.STAGE,
    "evaluate": evaluate.STAGE,
    "bundle": bundle.STAGE,
}


def stages_of(recipe: AnyRecipe) -> dict[str, BuildStage]:
    """The stages of a recipe, in order."""
    return (ADOPTED if isinstance(recipe, OnnxRecipe) else TRAINED) | COMMON
