"""Adoption: one's own ONNX files to the FP32 bundle."""

from __future__ import annotations

from pathlib import Path

from build_engines.artefacts import digest
from build_engines.build import Build
from build_engines.recipe import OnnxRecipe
from build_engines.stages.stage import BuildStage, without_later


def adopt_stage(build: Build) -> None:
    """One's own ONNX files to the FP32 bundle."""
    from build_engines.model.adopt import adopt

    bundle = adopt(_own(build), build.recipe_digest, build.work / build.model)
    for stage in bundle.manifest.stages:
        inputs = ", ".join(f"{item.name} {item.dtype}{list(item.shape)}" for item in stage.inputs)
        build.console.print(f"adopt: {stage.name}: {inputs}", highlight=False)


def own_files(build: Build) -> list[Path]:
    """The files that an own model is made of."""
    model = _own(build).onnx
    return [Path(stage.file) for stage in model.stages] + ([Path(model.tokenizer)] if model.tokenizer else [])


def _own(build: Build) -> OnnxRecipe:
    assert isinstance(build.recipe, OnnxRecipe)
    return build.recipe


STAGE = BuildStage(
    adopt_stage,
    code=("build_engines.model.adopt",),
    requires=lambda build: (),
    ensures=lambda build: (build.model,),
    settings=lambda build: [without_later(build), [digest(path) for path in own_files(build)]],
)
