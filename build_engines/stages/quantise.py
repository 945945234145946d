"""Quantisation: every stage in every precision, and the plan."""

from __future__ import annotations

from build_engines.build import Build, model_bundle
from build_engines.stages.stage import BuildStage


def quantise_stage(build: Build) -> None:
    """Every stage in every precision it may have, what each costs, and the plan."""
    from build_engines.quantisation.plan import choose_plan

    choose_plan(build, model_bundle(build), build.work / "quantised")


STAGE = BuildStage(
    quantise_stage,
    code=("build_engines.quantisation.plan", "build_engines.data"),
    requires=lambda build: (build.model, "calibration"),
    ensures=lambda build: ("quantised",),
    settings=lambda build: [build.recipe.quantise, build.recipe.gate, build.recipe.seed],
    splits=lambda build: (build.recipe.quantise.split or build.recipe.evaluate_split,),
)
