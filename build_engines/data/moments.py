"""The moments of a build: what it calibrates with, and what it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from build_engines.artefacts import digest
from build_engines.data.datasets import layout_of_recipe
from build_engines.job import Job
from calibration.moments import LabelledSet
from edge_runtime.bundle import Bundle


def calibration_moments(job: Job, bundle: Bundle) -> Iterator[LabelledSet]:
    """What to choose the calibration set from."""
    if job.recipe.calibrate.recordings:
        from calibration.recordings import read_recordings

        return read_recordings([Path(file) for file in job.recipe.calibrate.recordings])
    return _split(job, bundle, job.recipe.calibrate.split)


def calibration_splits(job: Job) -> tuple[str, ...]:
    """The splits that the calibration set is chosen from: none where recordings are given."""
    return () if job.recipe.calibrate.recordings else (job.recipe.calibrate.split,)


def recording_digests(job: Job) -> list[str]:
    """sha256 of every recording to calibrate from."""
    return [digest(Path(file)) for file in job.recipe.calibrate.recordings]


def evaluation_moments(job: Job, bundle: Bundle) -> Iterator[LabelledSet]:
    """What is evaluated."""
    return _split(job, bundle, job.recipe.evaluate_split)


def _split(job: Job, bundle: Bundle, split: str) -> Iterator[LabelledSet]:
    return layout_of_recipe(job.recipe).read(job.data, split, bundle.manifest.streams)
