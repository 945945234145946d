"""Calibration: moments that stand for the field."""

from __future__ import annotations

from build_engines.build import Build, model_bundle
from build_engines.data import moments
from build_engines.stages.stage import BuildStage


def calibrate_stage(build: Build) -> None:
    """A representative set of moments, proof that it is one, and the ranges of the activations to quantise."""
    from build_engines.quantisation.calibrate import calibrate

    calibrate(build, model_bundle(build), build.work / "calibration")


STAGE = BuildStage(
    calibrate_stage,
    code=("build_engines.quantisation.calibrate", "build_engines.data"),
    requires=lambda build: (build.model,),
    ensures=lambda build: ("calibration",),
    settings=lambda build: [
        build.recipe.calibrate,
        build.recipe.quantise,
        build.recipe.seed,
        moments.recording_digests(build),
    ],
    splits=lambda build: (*moments.calibration_splits(build), build.recipe.evaluate_split),
)
