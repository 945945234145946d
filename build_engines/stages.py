"""The build's stages as a visible, ordered table. Each reads what the one before left in the work folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from build_engines.recipe import Recipe
from edge_runtime.errors import GateRefused, UserError


@dataclass(frozen=True)
class Job:
    """One build: the recipe, where its data, work and result lie, and where to report."""

    recipe: Recipe
    recipe_digest: str
    data: Path
    work: Path
    bundle: Path
    console: Console


def train_stage(job: Job) -> None:
    """Data to weights.npz, training.json, tokenizer.model and samples.npz."""
    from build_engines.datasets import layout_named
    from build_engines.train import save, train

    prepared = layout_named(job.recipe.layout).prepare(job.recipe, job.data, job.work)
    trained = train(job.recipe, job.recipe_digest, prepared, job.console)
    save(trained, prepared, job.work)
    last = trained.record.epochs[-1]
    job.console.print(f"train: val accuracy {last.val_accuracy:.3f}, macro-F1 {last.val_macro_f1:.3f}")


def export_stage(job: Job) -> None:
    """Weights to one ONNX graph per stage, the monolith, and the proof of their equality."""
    from build_engines.export import export
    from build_engines.train import load_trained

    equality = export(job.recipe, load_trained(job.recipe, job.work), job.work)
    worst = max(equality.stage_against_torch.values())
    sizes = ", ".join(f"{name} {size / 1024:.0f} kB" for name, size in equality.bytes.items())
    job.console.print(f"export: {sizes}")
    job.console.print(
        f"export: stages equal torch within {worst:.1e}, staged equals monolith within "
        f"{equality.staged_against_monolith:.1e}, over {equality.samples} samples"
    )


def bundle_stage(job: Job) -> None:
    """Stages to a bundle directory."""
    from build_engines.train import load_trained
    from build_engines.write_bundle import write_bundle

    trained = load_trained(job.recipe, job.work)
    bundle = write_bundle(job.recipe, trained.record, job.work, job.bundle)
    job.console.print(f"bundle: {job.bundle} ({bundle.digest[:12]}, unsigned)")


def evaluate_stage(job: Job) -> None:
    """The bundle's report, by the device's own code; refuses the bundle if it misses the recipe's gate."""
    from build_engines import evaluate as ev
    from build_engines.datasets import layout_named
    from build_engines.write_bundle import add_reports
    from edge_runtime.bundle import open_bundle
    from edge_runtime.pipeline import Pipeline

    split = job.recipe.evaluate_split
    layout = layout_named(job.recipe.layout)
    bundle = open_bundle(job.bundle, allow_unsigned=True)
    pipeline = Pipeline(bundle)
    try:
        result = ev.evaluate(pipeline, layout.read(job.data, split, pipeline.streams))
        ablation = ev.ablate(pipeline, layout, job.data, split)
    finally:
        pipeline.close()
    ev.show(job.console, bundle, split, result)
    ev.show_ablation(job.console, ablation)
    reports = {
        "evaluation.json": ev.as_json(bundle, split, result, ablation),
        "evaluation.md": ev.as_markdown(bundle, split, result, ablation),
    }
    if (job.work / "equality.json").is_file():
        reports["equality.json"] = (job.work / "equality.json").read_bytes()
    scores = result.scores
    figures = {
        "accuracy": scores.accuracy,
        "f1_macro": scores.f1_macro,
        "f1_weighted": scores.f1_weighted,
        "model_accuracy": result.model.accuracy,
        "model_f1_macro": result.model.f1_macro,
    }
    add_reports(job.bundle, reports, {name: round(value, 6) for name, value in figures.items()})
    gate = job.recipe.gate
    if scores.accuracy < gate.accuracy or scores.f1_macro < gate.macro_f1:
        raise GateRefused(
            f"evaluate: accuracy {scores.accuracy:.4f} (at least {gate.accuracy}), "
            f"macro-F1 {scores.f1_macro:.4f} (at least {gate.macro_f1}) on {split}"
        )


def aggregate_stage(job: Job) -> None:
    """The bundle drives the world, the expert labels, and training goes on with both (DAgger, arXiv:1011.0686)."""
    plan = job.recipe.world
    if job.recipe.layout != "world" or plan.learner_episodes == 0:
        job.console.print("aggregate: the recipe asks for no drives of its own; nothing to do")
        return
    from build_engines import world_data
    from build_engines.train import load_trained, save, train

    drives = job.work / "learner"
    world_data.record_learner(job.recipe, job.bundle, drives)
    prepared = world_data.prepare(job.recipe, job.data, job.work, drives)
    lesson = msgspec.structs.replace(job.recipe.train, epochs=plan.learner_epochs, learning_rate=plan.learner_rate)
    recipe = msgspec.structs.replace(job.recipe, train=lesson)
    trained = train(recipe, job.recipe_digest, prepared, job.console, load_trained(job.recipe, job.work))
    save(trained, prepared, job.work)
    last = trained.record.epochs[-1]
    job.console.print(f"aggregate: val accuracy {last.val_accuracy:.3f}, macro-F1 {last.val_macro_f1:.3f}")
    export_stage(job)
    bundle_stage(job)


STAGES: dict[str, Callable[[Job], None]] = {
    "train": train_stage,
    "export": export_stage,
    "bundle": bundle_stage,
    "aggregate": aggregate_stage,
    "evaluate": evaluate_stage,
}


def run(job: Job, first: str, last: str) -> None:
    """Run the stages from `first` to `last`. Raises UserError for an unknown name or a wrong order."""
    names = list(STAGES)
    for option, name in (("--from", first), ("--to", last)):
        if name not in STAGES:
            raise UserError(f"{option} {name}: the stages are {', '.join(names)}")
    chosen = names[names.index(first) : names.index(last) + 1]
    if not chosen:
        raise UserError(f"--from {first} comes after --to {last}; the stages are {', '.join(names)}")
    for name in chosen:
        job.console.rule(f"{job.recipe.name}: {name}")
        STAGES[name](job)


def make_job(recipe: Recipe, digest: str, data: Path | None, out: Path, work: Path, console: Console) -> Job:
    """The job for `recipe`; data defaults to the recipe's own. Raises UserError if there is none."""
    if data is None and not recipe.data:
        raise UserError(f"recipe {recipe.name} names no data folder; give --data DIR")
    where = data if data is not None else Path(recipe.data)
    folder = work / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    # The recipe as it was understood, beside what it made.
    (folder / "recipe.json").write_bytes(msgspec.json.format(msgspec.json.encode(recipe), indent=1))
    return Job(recipe, digest, where, folder, out / recipe.name, console)
