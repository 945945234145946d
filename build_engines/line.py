"""What each stage of the build does, put together from parts; `stages` holds their order and contracts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from build_engines.job import Job, model_bundle
from build_engines.recipe import OnnxRecipe, Recipe
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import GateRefused

if TYPE_CHECKING:
    from build_engines.model.train import TrainingRecord


def _trained(job: Job) -> Recipe:
    assert isinstance(job.recipe, Recipe)
    return job.recipe


def _own(job: Job) -> OnnxRecipe:
    assert isinstance(job.recipe, OnnxRecipe)
    return job.recipe


def provide_data(job: Job) -> None:
    """Record the built-in world where a recipe learns from it and its recordings are not there yet."""
    if isinstance(job.recipe, Recipe) and job.recipe.layout == "world":
        from build_engines.data import world

        world.record(job.recipe, job.data)


def train_stage(job: Job) -> None:
    """Data to weights.npz, training.json, tokenizer.model and samples.npz."""
    from build_engines.data.datasets import layout_of_recipe
    from build_engines.model.train import save, train

    recipe = _trained(job)
    prepared = layout_of_recipe(recipe).prepare(recipe, job.data, job.work / "cache")
    trained = train(recipe, job.recipe_digest, prepared, job.console)
    save(recipe, trained, prepared, job.work / "train")
    job.console.print(f"train: {_last_epoch(recipe, trained.record)}")


def _last_epoch(recipe: Recipe, record: TrainingRecord) -> str:
    from build_engines.heads import build_of

    last = record.epochs[-1]
    return f"val accuracy {last.val_accuracy:.3f}, {build_of(recipe.output_head).figure} {last.val_figure:.3f}"


def export_stage(job: Job) -> None:
    """Weights to one ONNX graph per stage, the monolith, the proof of their equality, and the FP32 bundle."""
    _export(job, job.work / "train")


def _export(job: Job, folder: Path) -> None:
    from build_engines.model.export import export
    from build_engines.model.train import load_trained
    from build_engines.model.trained_bundle import write_trained

    recipe = _trained(job)
    trained = load_trained(recipe, folder)
    equality = export(recipe, trained, folder)
    worst = max(equality.stage_against_torch.values())
    sizes = ", ".join(f"{name} {size / 1024:.0f} kB" for name, size in equality.bytes.items())
    job.console.print(f"export: {sizes}")
    job.console.print(
        f"export: stages equal torch within {worst:.1e}, staged equals monolith within "
        f"{equality.staged_against_monolith:.1e}, over {equality.samples} samples"
    )
    write_trained(recipe, trained.record, folder, folder / "model")


def aggregate_stage(job: Job) -> None:
    """The model drives the world, the expert labels, and training goes on with both (DAgger, arXiv:1011.0686)."""
    recipe = _trained(job)
    plan = recipe.world
    if recipe.layout != "world" or plan.learner_episodes == 0:
        job.console.print("aggregate: the recipe asks for no drives of its own; nothing to do")
        return
    from build_engines.data import world
    from build_engines.model.train import load_trained, save, train

    drives = job.work / "aggregate" / "drives"
    world.record_learner(recipe, job.work / "train" / "model", drives)
    prepared = world.prepare(recipe, job.data, job.work / "cache", drives)
    lesson = msgspec.structs.replace(recipe.train, epochs=plan.learner_epochs, learning_rate=plan.learner_rate)
    again = msgspec.structs.replace(recipe, train=lesson)
    trained = train(again, job.recipe_digest, prepared, job.console, load_trained(recipe, job.work / "train"))
    save(recipe, trained, prepared, job.work / "aggregate")
    job.console.print(f"aggregate: {_last_epoch(recipe, trained.record)}")
    _export(job, job.work / "aggregate")


def adopt_stage(job: Job) -> None:
    """One's own ONNX files to the FP32 bundle."""
    from build_engines.model.adopt import adopt

    bundle = adopt(_own(job), job.recipe_digest, job.work / job.model)
    for stage in bundle.manifest.stages:
        inputs = ", ".join(f"{item.name} {item.dtype}{list(item.shape)}" for item in stage.inputs)
        job.console.print(f"adopt: {stage.name}: {inputs}", highlight=False)


def own_files(job: Job) -> list[Path]:
    """The files that an own model is made of."""
    model = _own(job).onnx
    return [Path(stage.file) for stage in model.stages] + ([Path(model.tokenizer)] if model.tokenizer else [])


def calibrate_stage(job: Job) -> None:
    """A representative set of moments, proof that it is one, and the ranges of the activations to quantise."""
    from build_engines.quantisation.calibrate import calibrate

    calibrate(job, model_bundle(job), job.work / "calibration")


def quantise_stage(job: Job) -> None:
    """Every stage in every precision it may have, what each costs, and the plan."""
    from build_engines.quantisation.plan import choose_plan

    choose_plan(job, model_bundle(job), job.work / "quantised")


def compiler_version() -> str:
    """Flavour and version of the library that compiles; empty where there is none."""
    from build_engines.compile import find_compiler

    compiler = find_compiler()
    return str(compiler) if compiler is not None else ""


def gpu_here(job: Job) -> str:
    """Library and GPU on which the gate can judge besides the CPU; empty where there is none."""
    from build_engines.gate.on_tensorrt import find_gpu

    return find_gpu(job).description


def compile_stage(job: Job) -> None:
    """Engines for the recipe's targets, compiled without a GPU, and checked."""
    from build_engines.compile import compile_engines

    compile_engines(job, model_bundle(job), job.work / "engines")


def evaluate_stage(job: Job) -> None:
    """The gate: what will ship, judged against FP32; the candidate bundle with its report, or a refusal."""
    from build_engines.gate.judge import judge_candidate

    judge_candidate(job, model_bundle(job))


def bundle_stage(job: Job) -> None:
    """The candidate that passed the gate, signed, where the recipe's bundles go."""
    from build_engines.gate.limits import VERDICT, Verdict
    from build_engines.write_bundle import without_engines, write_bundle
    from edge_runtime.bundle import sign_bundle
    from edge_runtime.signing import generate_keys

    candidate = open_bundle(job.work / "candidate", allow_unsigned=True)
    verdict = msgspec.json.decode((job.work / VERDICT).read_bytes(), type=Verdict)
    if not verdict.passed or verdict.bundle_digest != candidate.digest:
        raise GateRefused(f"bundle: {job.work / 'candidate'} is not what the gate passed; run with --from evaluate")
    files = {name: candidate.read(name) for name in candidate.manifest.files}
    manifest = candidate.manifest
    if not job.with_engines:
        manifest, files = without_engines(manifest, files)
    key = job.key or job.work / "signing.key"
    if job.key is None and not key.is_file():
        generate_keys(job.work / "signing")
        job.console.print(f"bundle: made a key pair; devices trust it by {key.with_suffix('.pem')}", highlight=False)
    write_bundle(job.bundle, manifest, files)
    bundle = sign_bundle(job.bundle, key)
    if job.key is None:
        shutil.copyfile(key.with_suffix(".pem"), job.bundle.with_suffix(".pem"))
    size = sum(len(data) for data in files.values())
    job.console.print(
        f"bundle: {job.bundle} ({bundle.digest[:12]}, {size / 1e6:.1f} MB), signed with {key}", highlight=False
    )
