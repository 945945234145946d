"""A build, from its recipe: where things lie, and its stages run in order.

A stage is skipped when the same went in as last time and what came out still stands, so that a build goes on where it
was broken off. The stage `bundle` always runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from build_engines.artefacts import Done, digests, key_of, read_record, stands, write_record
from build_engines.build import Build
from build_engines.code import code_digest
from build_engines.recipe import AnyRecipe, Recipe
from build_engines.stages import stages_of
from build_engines.stages.stage import BuildStage
from edge_runtime.errors import UserError


def provide_data(build: Build) -> None:
    """Record the built-in world where a recipe learns from it and its recordings are not there yet."""
    if isinstance(build.recipe, Recipe) and build.recipe.layout == "world":
        from build_engines.data import world

        world.record(build.recipe, build.data)


def run(build: Build, first: str | None = None, last: str | None = None, force: bool = False) -> None:
    """Run the stages from `first` to `last` (default: all), leaving out those that stand unless `force`.

    Raises UserError for an unknown name, a wrong order, or a stage whose requirements are not there.
    """
    table = stages_of(build.recipe)
    names = list(table)
    first, last = first or names[0], last or names[-1]
    for option, name in (("--from", first), ("--to", last)):
        if name not in table:
            raise UserError(f"{option} {name}: the stages of {build.recipe.name} are {', '.join(names)}")
    chosen = names[names.index(first) : names.index(last) + 1]
    if not chosen:
        raise UserError(f"--from {first} comes after --to {last}; the stages are {', '.join(names)}")
    provide_data(build)
    for name in chosen:
        _run_stage(build, name, names, table[name], force)


def _run_stage(build: Build, name: str, names: Sequence[str], stage: BuildStage, force: bool) -> None:
    build.console.rule(f"{build.recipe.name}: {name}")
    record = read_record(build.work)
    for path in stage.requires(build):
        if not (build.work / path).exists():
            needed, before = build.work / path, ", ".join(names[: names.index(name)])
            raise UserError(
                f"{name}: needs {needed}, which an earlier stage makes ({before}); run with --from {names[0]}"
            )
    inputs = digests(build.work, stage.requires(build))
    inputs |= {f"data {split}": build.split_digest(split) for split in stage.splits(build)}
    key = key_of([code_digest(stage.code), name, stage.settings(build)], inputs)
    if not force and stands(build.work, record.get(name), key) and name != "bundle":
        build.console.print(f"{name}: nothing has changed since it last ran; its results stand")
        return
    # What it made before no longer counts, whatever happens now.
    write_record(build.work, {other: done for other, done in record.items() if other != name})
    start = time.monotonic()
    stage.run(build)
    outputs = digests(build.work, stage.ensures(build))
    if missing := [path for path, value in outputs.items() if not value]:
        raise RuntimeError(f"stage {name} ended without {missing}")
    seconds = round(time.monotonic() - start, 1)
    write_record(build.work, read_record(build.work) | {name: Done(key, outputs, seconds)})
    build.console.print(f"{name}: {seconds:.0f} s", highlight=False)


def make_build(
    recipe: AnyRecipe,
    recipe_digest: str,
    data: Path | None,
    out: Path,
    work: Path,
    console: Console,
    key: Path | None = None,
    with_engines: bool = True,
) -> Build:
    """The build for `recipe`; data defaults to the recipe's own. Raises UserError if there is none."""
    if data is None and not recipe.data:
        raise UserError(f"recipe {recipe.name} names no data folder; give --data DIR")
    where = data if data is not None else Path(recipe.data)
    if recipe.layout == "ner" and not recipe.labels:
        from build_engines.data.ner import labels_of

        recipe = msgspec.structs.replace(recipe, labels=labels_of(where))
    folder = work / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    # The recipe as it was understood, beside what it made.
    (folder / "recipe.json").write_bytes(msgspec.json.format(msgspec.json.encode(recipe), indent=1))
    model = "adopt/model"
    if isinstance(recipe, Recipe):
        again = recipe.layout == "world" and recipe.world.learner_episodes > 0
        model = "aggregate/model" if again else "train/model"
    return Build(recipe, recipe_digest, where, folder, out / recipe.name, console, model, key, with_engines)
