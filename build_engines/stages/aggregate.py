"""Aggregation: the model drives the built-in world, the expert labels, and training goes on with both."""

from __future__ import annotations

import msgspec

from build_engines.build import Build
from build_engines.stages.export import export_from
from build_engines.stages.stage import BuildStage, last_epoch, trained_recipe, without_later


def aggregate_stage(build: Build) -> None:
    """The model drives the world, the expert labels, and training goes on with both (DAgger, arXiv:1011.0686)."""
    recipe = trained_recipe(build)
    plan = recipe.world
    if recipe.layout != "world" or plan.learner_episodes == 0:
        build.console.print("aggregate: the recipe asks for no drives of its own; nothing to do")
        return
    from build_engines.data import world
    from build_engines.model.train import load_trained, save, train

    drives = build.work / "aggregate" / "drives"
    world.record_learner(recipe, build.work / "train" / "model", drives)
    prepared = world.prepare(recipe, build.data, build.work / "cache", drives)
    lesson = msgspec.structs.replace(recipe.train, epochs=plan.learner_epochs, learning_rate=plan.learner_rate)
    again = msgspec.structs.replace(recipe, train=lesson)
    trained = train(again, build.recipe_digest, prepared, build.console, load_trained(recipe, build.work / "train"))
    save(recipe, trained, prepared, build.work / "aggregate")
    build.console.print(f"aggregate: {last_epoch(recipe, trained.record)}")
    export_from(build, build.work / "aggregate")


STAGE = BuildStage(
    aggregate_stage,
    code=(
        "build_engines.model.train",
        "build_engines.model.export",
        "build_engines.model.trained_bundle",
        "build_engines.data",
    ),
    requires=lambda build: ("train/weights.npz", "train/training.json", "train/model"),
    ensures=lambda build: (build.model,),
    settings=without_later,
    splits=lambda build: ("train", build.recipe.evaluate_split),
)
