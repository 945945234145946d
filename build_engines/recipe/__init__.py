"""The recipe: one strict TOML file that says everything a build depends on, a module for each of its tables.

It reuses the device's own stream and decision types, so what a recipe declares is what the manifest will hold. The keys
of an encoder lie beside it in `build_engines.modalities`.
"""

from __future__ import annotations

from build_engines.foreign.recipe import OnnxInput, PixelRecipe
from build_engines.recipe.budget import BudgetRecipe
from build_engines.recipe.checks import check
from build_engines.recipe.choose import ChooseRecipe
from build_engines.recipe.dataset import PLAIN_DATASET, DatasetRecipe, MinedRecipe, WorldRecipe
from build_engines.recipe.detection import DetectionRecipe
from build_engines.recipe.gate import GateRecipe
from build_engines.recipe.heads import SideHeadRecipe, make_head
from build_engines.recipe.load import load_recipe
from build_engines.recipe.model import FusionRecipe, ModelRecipe
from build_engines.recipe.onnx import OnnxModel, OnnxStage
from build_engines.recipe.own_files import own_files
from build_engines.recipe.recipe import AnyRecipe, BuildRecipe, OnnxRecipe, Recipe
from build_engines.recipe.reduce import CalibrateRecipe, CompileRecipe, QuantiseRecipe, RangeMethod
from build_engines.recipe.train import (
    AugmentRecipe,
    LexiconRecipe,
    MirrorRecipe,
    OppositeRecipe,
    TrainRecipe,
    WordsRecipe,
)

__all__ = [
    "PLAIN_DATASET",
    "AnyRecipe",
    "AugmentRecipe",
    "BudgetRecipe",
    "BuildRecipe",
    "CalibrateRecipe",
    "ChooseRecipe",
    "CompileRecipe",
    "DatasetRecipe",
    "DetectionRecipe",
    "FusionRecipe",
    "GateRecipe",
    "LexiconRecipe",
    "MinedRecipe",
    "MirrorRecipe",
    "ModelRecipe",
    "OnnxInput",
    "OnnxModel",
    "OnnxRecipe",
    "OnnxStage",
    "OppositeRecipe",
    "PixelRecipe",
    "QuantiseRecipe",
    "RangeMethod",
    "Recipe",
    "SideHeadRecipe",
    "TrainRecipe",
    "WordsRecipe",
    "WorldRecipe",
    "check",
    "load_recipe",
    "make_head",
    "own_files",
]
