from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime import Pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.errors import UserError
from tests.conftest import jpeg, noise, tiny_config
from tests.test_runtime import driving


@pytest.mark.parametrize("brightness", [5, 120, 250])
def test_it_decides_as_a_running_service_does_on_the_same_inputs(
    brightness: int, tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(jpeg(noise(brightness, 0)))
    arguments = ["predict", str(tiny_bundle_path), "--allow-unsigned", "--image", f"camera={picture}"]
    arguments += ["--values", "sensors:a=2", "--values", "sensors:b=3", "--text", "go on = then"]
    assert run_command(commands, arguments) == 0
    predicted = json.loads(capsys.readouterr().out)
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        vehicle.sample(a=2.0, b=3.0)
        vehicle.text("go on = then")
        live = vehicle.answer(brightness, "x")
        while not all(part.present for part in live.inputs.values()):
            vehicle.frames = 0
            live = vehicle.answer(brightness, f"x{live.seq}")
    assert {name for name, part in predicted["inputs"].items() if part["present"]} == {"camera", "sensors", "text"}
    assert predicted["probabilities"] == live.probabilities
    for name in ("label", "confidence", "tags", "source", "reason", "backend", "precision"):
        assert predicted[name] == getattr(live, name), name
    assert predicted["bundle"]["digest"] == live.bundle.digest


def test_nothing_is_left_of_one_prediction_in_the_next(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    try:
        bright, dark = noise(250, 0), noise(5, 1)
        alone = pipeline.predict({"camera": dark}).verdict
        pipeline.predict({"camera": bright, "sensors": {"a": 50.0}, "text": "stop"})
        assert pipeline.predict({"camera": dark}).verdict == alone
        assert pipeline.predict({"camera": jpeg(bright)}).verdict.label == "bright"
        nothing = pipeline.predict({}).verdict
        assert (nothing.source, nothing.reason) == ("safe", "camera missing")
    finally:
        pipeline.close()


def test_what_is_not_admitted_is_named(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    try:
        for inputs, words in (
            ({"nose": "x"}, "input 'nose': the bundle has no such stream; there are camera"),
            ({"camera": "x"}, "input 'camera': str is nothing for a stream of camera"),
            ({"camera": b"GIF89a"}, "input 'camera': is refused: not_jpeg"),
            ({"camera": np.zeros((4, 4), np.uint8)}, "input 'camera': is refused: bad_format"),
            ({"sensors": {"a": 1e9}}, "input 'sensors': is refused: out_of_range a = 1000000000.0 m"),
            ({"text": "  "}, "input 'text': is refused: empty"),
        ):
            with pytest.raises(UserError, match=re.escape(words)):
                pipeline.predict(inputs)
    finally:
        pipeline.close()


MISTAKES = {
    "no file": (["--image", "camera=/no/such.jpg"], "is refused: unreadable such.jpg: No such file"),
    "no stream": (["--image", "picture.jpg"], "expected STREAM=FILE"),
    "no number": (["--values", "sensors:a=x"], "expected STREAM:CHANNEL=NUMBER"),
    "no channel": (["--values", "a=1"], "expected STREAM:CHANNEL=NUMBER"),
    "twice": (["--text", "a", "--text", "b"], "stream 'text' is given twice"),
    "unknown channel": (["--values", "sensors:nose=1"], "unknown_channel nose"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line(what: str, tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, words = MISTAKES[what]
    assert run_command(commands, ["predict", str(tiny_bundle_path), "--allow-unsigned", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_png_is_as_good(tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), noise(250, 0))
    options = ["--allow-unsigned", "--image", f"camera={tmp_path / 'a.png'}"]
    assert run_command(commands, ["predict", str(tiny_bundle_path), *options]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "bright"
