"""The plan rests on evidence: what no moment shows anything of keeps its precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from build_engines.quantisation.bank import Bank
from build_engines.quantisation.calibrate import feeding_all
from build_engines.quantisation.sensitivity import Examiner, Sensitivity, Subject
from build_engines.recipe import GateRecipe, QuantiseRecipe
from calibration.moments import LabelledSet, RawMessage
from calibration.samples import CalibrationSample, read_samples
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.messages import Words
from tests.tiny import HEIGHT, WIDTH, write_bundle

AT_NS = 1_000_000_000


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path), allow_unsigned=True)


def moments(bundle: Bundle, spoken: Sequence[bool]) -> list[CalibrationSample]:
    """One for each of `spoken`: with or without a sentence."""
    camera = RawMessage("camera", AT_NS, np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    sensors, text = RawMessage("sensors", AT_NS, {"a": 9.0}), RawMessage("text", AT_NS, Words("please stop now"))
    made = [
        LabelledSet(str(index), str(index), AT_NS, "stop", (camera, sensors, text) if said else (camera, sensors))
        for index, said in enumerate(spoken)
    ]
    return list(read_samples(bundle, made))


def examine(bundle: Bundle, samples: list[CalibrationSample]) -> Sensitivity:
    subjects = [
        Subject(stage.name, onnx.load_from_string(bundle.read(stage.files["fp32"])), (), {}, {})
        for stage in bundle.manifest.stages
    ]
    return Examiner(Bank(bundle.manifest, samples), subjects, QuantiseRecipe(), GateRecipe()).examine()


def test_a_stage_that_no_moment_feeds_stays_in_fp32_and_the_plan_says_so(bundle: Bundle) -> None:
    found = examine(bundle, moments(bundle, [False, False]))
    assert found.plan == {"vision": "fp16", "text": "fp32", "sensors": "fp16", "fusion": "fp16"}
    assert "text: no moment that is evaluated feeds it; it stays in FP32" in found.reasons
    found = examine(bundle, moments(bundle, [False, True]))
    assert found.plan["text"] == "fp16"
    assert not any("no moment" in line for line in found.reasons)


@pytest.mark.parametrize(
    ("spoken", "step", "chosen"),
    [
        ([], 3, []),
        ([False] * 7, 3, [0, 3, 6]),
        ([False] * 4 + [True] * 3, 3, [0, 3, 4, 6]),  # the first that is spoken too
        ([False, False, False, True, True], 3, [0, 3]),
        ([True, False, True], 1, [0, 1, 2]),
    ],
)
def test_moments_are_taken_evenly_and_none_of_the_stages_is_left_out(
    bundle: Bundle, spoken: list[bool], step: int, chosen: list[int]
) -> None:
    found = feeding_all(bundle.manifest.stages, moments(bundle, spoken), step)
    assert [int(sample.id) for sample in found] == chosen
