"""The gate."""

from __future__ import annotations

from pathlib import Path

from build_engines.artefacts import digest
from build_engines.build import Build, model_bundle
from build_engines.stages.stage import BuildStage


def evaluate_stage(build: Build) -> None:
    """The gate: what will ship, judged against FP32; the candidate bundle with its report, or a refusal."""
    from build_engines.gate.judge import judge_candidate

    judge_candidate(build, model_bundle(build))


def gpu_here(build: Build) -> str:
    """Library and GPU on which the gate can judge besides the CPU; empty where there is none."""
    from build_engines.gate.on_tensorrt import find_gpu

    return find_gpu(build).description


STAGE = BuildStage(
    evaluate_stage,
    code=("build_engines.gate.judge", "build_engines.data"),
    requires=lambda build: (build.model, "calibration", "quantised", "engines"),
    ensures=lambda build: ("candidate", "report"),
    settings=lambda build: [
        build.recipe.gate,
        build.recipe.budget,
        [digest(Path(target.measured)) for target in build.recipe.budget.targets.values() if target.measured],
        build.recipe.trial,
        build.recipe.seed,
        build.recipe.decision,
        build.recipe.grammar,
        gpu_here(build),
    ],
    splits=lambda build: (build.recipe.evaluate_split,),
)
