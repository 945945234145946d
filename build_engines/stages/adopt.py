"""Adoption: one's own ONNX files to the FP32 bundle."""

from __future__ import annotations

from pathlib import Path

from build_engines.artefacts import digest
from build_engines.build import Build
from build_engines.recipe import OnnxRecipe
from build_engines.stages.stage import BuildStage, without_later


def adopt_stage(build: Build) -> None:
    """One's own ONNX files to the FP32 bundle."""
    from build_engines.adoption.adopt import adopt

    def tell(line: str) -> None:
        build.console.print(f"adopt: {line}", highlight=False, markup=False, soft_wrap=True)

    bundle = adopt(_own(build), build.recipe_digest, build.work / build.model, tell)
    for stage in bundle.manifest.stages:
        inputs = ", ".join(f"{item.name} {item.dtype}{list(item.shape)}" for item in stage.inputs)
        build.console.print(f"adopt: {stage.name}: {inputs}", highlight=False)


def own_files(build: Build) -> list[Path]:
    """The files that an own model is made of."""
    from build_engines.foreign.read import files_of

    model = _own(build).onnx
    graphs = [file for stage in model.stages for file in files_of(Path(stage.file))]
    return graphs + ([Path(model.tokenizer)] if model.tokenizer else [])


def _own(build: Build) -> OnnxRecipe:
    assert isinstance(build.recipe, OnnxRecipe)
    return build.recipe


STAGE = BuildStage(
    adopt_stage,
    code=("build_engines.adoption.adopt",),
    requires=lambda build: (),
    ensures=lambda build: (build.model,),
    settings=lambda build: [without_later(build), [digest(path) for path in own_files(build)]],
)
