"""What `build-engines improve` and `evaluate --improve` do: the steps in order, and what they leave."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from build_engines.build import Build, model_bundle
from build_engines.choice.choice import chosen_recipe
from build_engines.data.moments import evaluation_moments
from build_engines.evaluation.run import write_files
from build_engines.improvement.improve import Loop, show
from build_engines.recipe import Recipe
from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import open_bundle


def improve_bundle(loop: Loop, console: Console, folder: Path) -> None:
    """The steps that need only a bundle; writes what was tried and the improved bundle into `folder`."""
    loop.thresholds(loop.temperature())
    loop.precision_plan()
    improvement = loop.outcome()
    show(console, improvement)
    write_files(folder, improvement.files())
    if any(attempt.kept for attempt in improvement.attempts):
        manifest, files = loop.bundle.manifest, {name: loop.bundle.read(name) for name in loop.bundle.manifest.files}
        engines = {engine.file for engine in manifest.engines}
        files = {name: data for name, data in files.items() if not name.startswith("engines/") or name in engines}
        bundle = write_bundle(folder / "bundle", manifest, files)
        console.print(f"improve: {folder / 'bundle'} ({bundle.digest[:12]}, not signed)", highlight=False)


def improve_build(build: Build, folder: Path) -> None:
    """The same for what a recipe's build left, and the step that fine-tunes the model. Raises UserError."""
    from build_engines.improvement.reweigh import reweighed

    candidate = build.work / "candidate"
    bundle = open_bundle(candidate, allow_unsigned=True) if candidate.is_dir() else model_bundle(build)
    loop = Loop(bundle, partial(evaluation_moments, build, bundle), build.recipe.evaluate_split, build.recipe.seed)
    if isinstance(build.recipe, Recipe):
        other, line = reweighed(build, chosen_recipe(build.recipe, build.work), loop.worst)
        loop.model(other, ", ".join(loop.worst) + " twice the weight", line)
    improve_bundle(loop, build.console, folder)
