"""The moments of a build: what it calibrates with, and what it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from build_engines.artefacts import digest
from build_engines.build import Build
from build_engines.data.datasets import layout_of_recipe
from calibration.moments import LabelledSet
from edge_runtime.bundle import Bundle


def calibration_moments(build: Build, bundle: Bundle) -> Iterator[LabelledSet]:
    """What to choose the calibration set from."""
    if build.recipe.calibrate.recordings:
        from calibration.recordings import read_recordings

        return read_recordings([Path(file) for file in build.recipe.calibrate.recordings])
    return _split(build, bundle, build.recipe.calibrate.split)


def calibration_splits(build: Build) -> tuple[str, ...]:
    """The splits that the calibration set is chosen from: none where recordings are given."""
    return () if build.recipe.calibrate.recordings else (build.recipe.calibrate.split,)


def recording_digests(build: Build) -> list[str]:
    """sha256 of every recording to calibrate from."""
    return [digest(Path(file)) for file in build.recipe.calibrate.recordings]


def evaluation_moments(build: Build, bundle: Bundle) -> Iterator[LabelledSet]:
    """What is evaluated."""
    return _split(build, bundle, build.recipe.evaluate_split)


def sensitivity_split(build: Build) -> str:
    """The split by whose moments the plan is chosen."""
    return build.recipe.quantise.split or build.recipe.evaluate_split


def sensitivity_moments(build: Build, bundle: Bundle) -> Iterator[LabelledSet]:
    """What the plan is chosen by."""
    return _split(build, bundle, sensitivity_split(build))


def _split(build: Build, bundle: Bundle, split: str) -> Iterator[LabelledSet]:
    return layout_of_recipe(build.recipe).read(build.data, split, bundle.manifest.streams)
