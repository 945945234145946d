"""A small detector from elsewhere through the whole line: adopted, calibrated, quantised, gated, signed, served."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from build_engines.data.datasets import layout_for
from build_engines.evaluation.evaluate import evaluate
from build_engines.gate import judge
from edge_runtime import Subscriber
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.cli import EXIT_GATE, EXIT_USER
from edge_runtime.config import Config, ImagesSource, ZmqSink
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.infer.rehearsal import rehearse
from edge_runtime.pipeline import Pipeline
from edge_runtime.runtime import Runtime
from tests.build_engines import small_detector
from tests.build_engines.calling import call
from tests.conftest import WAIT_S, running

SETTINGS = """
[calibrate]
samples = 16
[quantise]
stages = ["net"]
methods = ["minmax"]
[compile]
targets = []
[gate]
ap = 0.5
macro_f1_ratio = 0.95
class_drop = 0.1
"""


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained net as ONNX, its data and its recipe."""
    folder = tmp_path_factory.mktemp("brought")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        small_detector.export(small_detector.train(), folder / "net.onnx")
    finally:
        torch.set_num_threads(threads)
    small_detector.write_coco(folder / "data", "train", 40, 11)
    small_detector.write_coco(folder / "data", "val", 24, 12, ".jpg")
    (folder / "own.toml").write_text(small_detector.RECIPE + SETTINGS)
    return folder


@pytest.fixture(scope="module")
def built(brought: Path) -> Bundle:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(brought)
    monkeypatch.setattr(judge, "RESAMPLES", 60)
    assert call(monkeypatch, "run", "own.toml", "--data", "data", "--out", "out") == 0
    monkeypatch.undo()
    return open_bundle(brought / "out/shapes", allow_unsigned=True)


def test_int8_is_gated_by_average_precision_and_the_report_says_so(built: Bundle) -> None:
    manifest = built.manifest
    assert manifest.precision["tensorrt"]["net"] == "int8"
    assert manifest.figures["ap"] > 0.5 and manifest.figures["ap50"] > 0.9
    rehearse(built)
    report = built.read("report/evaluation.md").decode()
    assert "AP50-95" in report and "| ball |" in report and "macro-F1" not in report
    gate = built.read("report/gate.md").decode()
    assert "AP50-95" in gate and "macro-F1" not in gate
    document = json.loads(built.read("report/evaluation.json"))
    interval = document["findings"]["intervals"]["figure"]
    assert interval["low"] < interval["value"] < interval["high"]
    assert set(document["scores"]["classes"]) == {"ball", "box"}


def test_evaluating_the_bundle_gives_the_gates_figures(built: Bundle, brought: Path) -> None:
    pipeline = Pipeline(built)
    try:
        layout = layout_for(built, brought / "data", "val")
        result = evaluate(pipeline, layout.read(brought / "data", "val", pipeline.streams))
    finally:
        pipeline.close()
    assert result.model.summary["ap"] == pytest.approx(built.manifest.figures["ap"], abs=1e-6)
    assert result.scores.accuracy > 0.8, "most pictures are told wholly and rightly"


def test_it_is_served_live(built: Bundle, tmp_path: Path) -> None:
    """Pictures twice as large and lower than the model's, which sees bars: boxes are where the things are."""
    rng = np.random.default_rng(77)
    while True:
        image, things = small_detector.draw(rng)
        if len(things) >= 2 and all(top >= 8 and bottom <= 56 for _, _, top, _, bottom in things):
            break
    low = cv2.resize(image[8:56], None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures/a.png"), low)
    source = ImagesSource("camera.front", str(tmp_path / "pictures"), rate_hz=20.0, loop=True)
    config = Config("shapes", str(built.path), (source,), (ZmqSink("tcp://127.0.0.1:*"),), allow_unsigned=True)
    with running(Runtime(config)) as runtime, Subscriber(runtime.decisions_endpoint, timeout_s=WAIT_S) as subscriber:
        decision = next(one for one in subscriber if one.source == "model")
    found = [(thing.label, np.array(thing.box)) for thing in decision.detections]  # type: ignore[union-attr]
    for number, left, top, right, bottom in things:
        box = np.array([left / 96, (top - 8) / 48, right / 96, (bottom - 8) / 48])
        near = min(found, key=lambda one: float(np.abs(one[1] - box).max()))
        assert near[0] == small_detector.LABELS[number] and np.abs(near[1] - box).max() < 0.06
    assert len(found) == len(things)


def test_boxes_read_wrongly_are_refused_by_the_gate(
    brought: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Middles taken for corners."""
    text = (brought / "own.toml").read_text().replace('form = "yolo"', 'form = "yolo"\nsides = "corners"')
    (brought / "wrong.toml").write_text(text.replace('"shapes"', '"wrong"'))
    monkeypatch.chdir(brought)
    assert call(monkeypatch, "run", "wrong.toml", "--data", "data", "--out", "out") == EXIT_GATE
    said = " ".join(capsys.readouterr().err.split())
    assert "finds nothing that is there" in said and "onnx.detection" in said


def test_a_class_that_is_no_label_is_the_users_mistake(
    brought: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (brought / "own.toml").read_text().replace('labels = ["ball", "box"]', 'labels = ["ball", "cube"]')
    (brought / "other.toml").write_text(text.replace('"shapes"', '"other"'))
    monkeypatch.chdir(brought)
    assert call(monkeypatch, "run", "other.toml", "--data", "data", "--out", "out") == EXIT_USER
    said = " ".join(capsys.readouterr().err.split())
    assert "the data names the class 'box', which is no label (ball, cube)" in said


def test_the_head_is_as_the_recipe_says(built: Bundle) -> None:
    head = built.manifest.head
    assert isinstance(head, DetectionHead) and (head.camera, head.max_overlap) == ("camera.front", 0.4)
