"""The build's stages as a visible, ordered table, each with its contract: what it requires, and what it ensures.

A stage reads what those before it left in the work folder. It is skipped when the same went in as last time and what
came out still stands, so that a build goes on where it was broken off and nothing is built twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from build_engines import line
from build_engines.artefacts import Done, digest, digests, key_of, read_record, stands, write_record
from build_engines.code import code_digest
from build_engines.data import moments
from build_engines.job import Job
from build_engines.recipe import AnyRecipe, OnnxRecipe, Recipe
from edge_runtime.errors import UserError


@dataclass(frozen=True)
class BuildStage:
    """One row of the table."""

    run: Callable[[Job], None]
    requires: Callable[[Job], Sequence[str]]
    """Paths below the work folder that must be there, and whose contents matter."""
    ensures: Callable[[Job], Sequence[str]]
    """Paths below the work folder that are there afterwards."""
    settings: Callable[[Job], Any]
    """The part of the recipe that matters."""
    code: Sequence[str]
    """Modules whose source, and all that it imports of this project, makes the stage's results."""
    splits: Callable[[Job], Sequence[str]] = lambda job: ()
    """Splits of the data folder whose contents matter."""


def _without_later(job: Job) -> Any:
    """The recipe without what only later stages read, so that changing a limit does not train again."""
    recipe = msgspec.to_builtins(job.recipe)
    return {name: value for name, value in recipe.items() if name not in ("calibrate", "quantise", "compile", "gate")}


def _training(job: Job) -> Any:
    """The part that the weights depend on: the policy is for those who decide with them."""
    return {name: value for name, value in _without_later(job).items() if name != "decision"}


TRAINED: dict[str, BuildStage] = {
    "train": BuildStage(
        line.train_stage,
        code=("build_engines.model.train", "build_engines.data"),
        requires=lambda job: (),
        ensures=lambda job: ("train/weights.npz", "train/training.json", "train/samples.npz"),
        settings=_training,
        splits=lambda job: ("train", job.recipe.evaluate_split),
    ),
    "export": BuildStage(
        line.export_stage,
        code=("build_engines.model.export", "build_engines.model.trained_bundle"),
        requires=lambda job: ("train/weights.npz", "train/training.json", "train/samples.npz"),
        ensures=lambda job: ("train/model",),
        settings=_without_later,
    ),
    "aggregate": BuildStage(
        line.aggregate_stage,
        code=(
            "build_engines.model.train",
            "build_engines.model.export",
            "build_engines.model.trained_bundle",
            "build_engines.data",
        ),
        requires=lambda job: ("train/weights.npz", "train/training.json", "train/model"),
        ensures=lambda job: (job.model,),
        settings=_without_later,
        splits=lambda job: ("train", job.recipe.evaluate_split),
    ),
}
ADOPTED: dict[str, BuildStage] = {
    "adopt": BuildStage(
        line.adopt_stage,
        code=("build_engines.model.adopt",),
        requires=lambda job: (),
        ensures=lambda job: (job.model,),
        settings=lambda job: [_without_later(job), [digest(path) for path in line.own_files(job)]],
    ),
}
COMMON: dict[str, BuildStage] = {
    "calibrate": BuildStage(
        line.calibrate_stage,
        code=("build_engines.quantisation.calibrate", "build_engines.data"),
        requires=lambda job: (job.model,),
        ensures=lambda job: ("calibration",),
        settings=lambda job: [
            job.recipe.calibrate,
            job.recipe.quantise,
            job.recipe.seed,
            moments.recording_digests(job),
        ],
        splits=lambda job: (*moments.calibration_splits(job), job.recipe.evaluate_split),
    ),
    "quantise": BuildStage(
        line.quantise_stage,
        code=("build_engines.quantisation.plan", "build_engines.data"),
        requires=lambda job: (job.model, "calibration"),
        ensures=lambda job: ("quantised",),
        settings=lambda job: [job.recipe.quantise, job.recipe.gate, job.recipe.seed],
        splits=lambda job: (job.recipe.evaluate_split,),
    ),
    "compile": BuildStage(
        line.compile_stage,
        code=("build_engines.compile",),
        requires=lambda job: (job.model, "quantised"),
        ensures=lambda job: ("engines",),
        settings=lambda job: [job.recipe.compile, line.compiler_version()],
    ),
    "evaluate": BuildStage(
        line.evaluate_stage,
        code=("build_engines.gate.judge", "build_engines.data"),
        requires=lambda job: (job.model, "calibration", "quantised", "engines"),
        ensures=lambda job: ("candidate", "report"),
        settings=lambda job: [job.recipe.gate, job.recipe.seed, job.recipe.decision, line.gpu_here(job)],
        splits=lambda job: (job.recipe.evaluate_split,),
    ),
    "bundle": BuildStage(
        line.bundle_stage,
        code=("build_engines.write_bundle",),
        requires=lambda job: ("candidate",),
        ensures=lambda job: (),
        settings=lambda job: [str(job.bundle), str(job.key), job.with_engines],
    ),
}


def stages_of(recipe: AnyRecipe) -> dict[str, BuildStage]:
    """The stages of a recipe, in order."""
    return (ADOPTED if isinstance(recipe, OnnxRecipe) else TRAINED) | COMMON


def run(job: Job, first: str | None = None, last: str | None = None, force: bool = False) -> None:
    """Run the stages from `first` to `last` (default: all), leaving out those that stand unless `force`.

    Raises UserError for an unknown name, a wrong order, or a stage whose requirements are not there.
    """
    table = stages_of(job.recipe)
    names = list(table)
    first, last = first or names[0], last or names[-1]
    for option, name in (("--from", first), ("--to", last)):
        if name not in table:
            raise UserError(f"{option} {name}: the stages of {job.recipe.name} are {', '.join(names)}")
    chosen = names[names.index(first) : names.index(last) + 1]
    if not chosen:
        raise UserError(f"--from {first} comes after --to {last}; the stages are {', '.join(names)}")
    line.provide_data(job)
    for name in chosen:
        _run_one(job, name, names, table[name], force)


def _run_one(job: Job, name: str, names: Sequence[str], stage: BuildStage, force: bool) -> None:
    job.console.rule(f"{job.recipe.name}: {name}")
    record = read_record(job.work)
    for path in stage.requires(job):
        if not (job.work / path).exists():
            before = ", ".join(names[: names.index(name)])
            raise UserError(
                f"{name}: needs {job.work / path}, which an earlier stage makes ({before}); run with --from {names[0]}"
            )
    inputs = digests(job.work, stage.requires(job))
    inputs |= {f"data {split}": job.split_digest(split) for split in stage.splits(job)}
    key = key_of([code_digest(stage.code), name, stage.settings(job)], inputs)
    if not force and stands(job.work, record.get(name), key) and name != "bundle":
        job.console.print(f"{name}: nothing has changed since it last ran; its results stand")
        return
    # What it made before no longer counts, whatever happens now.
    write_record(job.work, {other: done for other, done in record.items() if other != name})
    start = time.monotonic()
    stage.run(job)
    made = digests(job.work, stage.ensures(job))
    if missing := [path for path, value in made.items() if not value]:
        raise RuntimeError(f"stage {name} ended without {missing}")
    seconds = round(time.monotonic() - start, 1)
    write_record(job.work, read_record(job.work) | {name: Done(key, made, seconds)})
    job.console.print(f"{name}: {seconds:.0f} s", highlight=False)


def make_job(
    recipe: AnyRecipe,
    recipe_digest: str,
    data: Path | None,
    out: Path,
    work: Path,
    console: Console,
    key: Path | None = None,
    with_engines: bool = True,
) -> Job:
    """The job for `recipe`; data defaults to the recipe's own. Raises UserError if there is none."""
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
    return Job(recipe, recipe_digest, where, folder, out / recipe.name, console, model, key, with_engines)
