"""Export: weights to ONNX graphs, proven equal."""

from __future__ import annotations

from pathlib import Path

from build_engines.build import Build
from build_engines.choice.choice import CHOICE
from build_engines.stages.stage import BuildStage, trained_recipe, without_later


def export_stage(build: Build) -> None:
    """Weights to one ONNX graph per stage, the monolith, the proof of their equality, and the FP32 bundle."""
    export_from(build, build.work / "train")


def export_from(build: Build, folder: Path) -> None:
    """The same of the weights in `folder`, with their bundle in `folder`/model."""
    from build_engines.model.export import export
    from build_engines.model.train import load_trained
    from build_engines.model.trained_bundle import write_trained

    recipe = trained_recipe(build)
    trained = load_trained(recipe, folder)
    equality = export(recipe, trained, folder)
    worst = max(equality.stage_against_torch.values())
    sizes = ", ".join(f"{name} {size / 1024:.0f} kB" for name, size in equality.bytes.items())
    build.console.print(f"export: {sizes}")
    build.console.print(
        f"export: stages equal torch within {worst:.1e}, staged equals monolith within "
        f"{equality.staged_against_monolith:.1e}, over {equality.samples} samples"
    )
    for name, cosine in equality.pretrained.items():
        build.console.print(f"export: {name}: the pretrained network's graph agrees with it, cosine {cosine:.7f}")
    write_trained(recipe, trained.record, folder, folder / "model")


STAGE = BuildStage(
    export_stage,
    code=("build_engines.model.export", "build_engines.model.trained_bundle"),
    requires=lambda build: (CHOICE, "train/weights.npz", "train/training.json", "train/samples.npz"),
    ensures=lambda build: ("train/model",),
    settings=without_later,
)
