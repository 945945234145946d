"""Training: data to weights."""

from __future__ import annotations

from build_engines.build import Build
from build_engines.choice.choice import CHOICE
from build_engines.stages.stage import BuildStage, last_epoch, trained_recipe, training_settings


def train_stage(build: Build) -> None:
    """Data to weights.npz, training.json, tokenizer.model and samples.npz."""
    from build_engines.choice.choice import read_choice
    from build_engines.data.datasets import layout_of_recipe
    from build_engines.model.train import save, train

    recipe = trained_recipe(build)
    prepared = layout_of_recipe(recipe).prepare(recipe, build.data, build.work / "cache")
    fitted = read_choice(build.work).fitted
    trained = train(recipe, build.recipe_digest, prepared, build.console, fitted=fitted)
    save(recipe, trained, prepared, build.work / "train")
    build.console.print(f"train: {last_epoch(recipe, trained.record)}")


STAGE = BuildStage(
    train_stage,
    code=("build_engines.model.train", "build_engines.data", "build_engines.choice.choice"),
    requires=lambda build: (CHOICE,),
    ensures=lambda build: ("train/weights.npz", "train/training.json", "train/samples.npz"),
    settings=training_settings,
    splits=lambda build: ("train", build.recipe.evaluate_split),
)
