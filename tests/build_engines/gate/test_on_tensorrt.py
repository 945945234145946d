"""The gate where a GPU is: the plan is judged on TensorRT too, and nothing ships that computes otherwise there.

On doubles of the CUDA driver and of TensorRT's runtime; the engines are the real library's.
"""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper

from build_engines import compile as compile_stage
from build_engines.cli import cli
from build_engines.graphs import serialised
from edge_runtime.bundle import open_bundle
from edge_runtime.cli import run_command
from edge_runtime.infer.tensorrt import backend
from tests.build_engines import small_graphs as small
from tests.cuda.double import Double

RECIPE = """
name = "light"
version = "1.0.0"
layout = "images"
labels = ["bright", "dark"]
trigger = "camera.front"
[streams."camera.front"]
kind = "camera"
width = 16
height = 12
rate_hz = 10.0
max_age_ms = 500.0
required = true
[decision]
safe_label = "dark"
[onnx]
output = "stage:classifier:logits"
[[onnx.stages]]
name = "classifier"
file = "net.onnx"
[onnx.stages.inputs.image]
source = "stream:camera.front:image"
pixels = {}
[calibrate]
samples = 16
[quantise]
stages = ["classifier"]
methods = ["minmax"]
[gate]
min_gain = 0.0
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, pictures of two brightnesses, and a net that tells them apart by what it was made of."""
    folder = tmp_path_factory.mktemp("light")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 12)):
        for label, base in (("bright", 150), ("dark", 20)):
            (folder / "data" / split / label).mkdir(parents=True)
            for index in range(count):
                picture = rng.integers(base, base + 90, (12, 16, 3)).astype(np.uint8)
                cv2.imwrite(str(folder / "data" / split / label / f"{index:02d}.jpg"), picture)
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], name="/encoder/layers.0/Conv"),
        helper.make_node("Relu", ["c0"], ["r0"], name="/encoder/layers.0/Relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="/encoder/layers.1/Conv"),
        helper.make_node("ReduceMean", ["c1", "axes"], ["pooled"], name="/encoder/Pool", keepdims=0),
        helper.make_node("Gemm", ["pooled", "w2", "b2"], ["logits"], name="/encoder/head/Gemm"),
    ]
    sign = np.repeat(np.array([[4.0, -4.0]], np.float32), 16, axis=0) / 16
    constants = {
        "w0": rng.uniform(0.2, 0.4, (16, 3, 3, 3)).astype(np.float32) / 9,
        "w1": rng.uniform(0.9, 1.1, (16, 16, 3, 3)).astype(np.float32) / 144,
        "axes": np.array([2, 3]),
        "w2": sign,
        "b2": np.array([-1.8, 1.8], np.float32),
    }
    picture = {"image": (TensorProto.FLOAT, [1, 3, 12, 16])}
    net = small.model(nodes, picture, {"logits": (TensorProto.FLOAT, [1, 2])}, constants)
    (folder / "net.onnx").write_bytes(serialised(net))
    (folder / "light.toml").write_text(RECIPE)
    return folder


def _run(light: Path, tmp_path: Path) -> int:
    arguments = ("run", light / "light.toml", "--data", light / "data", "--out", tmp_path, "--work", tmp_path / "work")
    return run_command(cli, [str(argument) for argument in arguments])


def test_without_a_gpu_the_report_says_so_and_why(light: Path, tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert _run(light, tmp_path) == 0
    else:
        pytest.skip("this machine has an NVIDIA driver")
    text = open_bundle(tmp_path / "light", [tmp_path / "light.pem"]).read("report/gate.md").decode()
    (line,) = [line for line in text.splitlines() if "judged on ONNX Runtime (CPU) only" in line]
    assert "libcuda.so.1" in line
    assert "classifier: oracle: 2 sites exact within" in text


@pytest.mark.driver_double
def test_the_plan_is_judged_on_tensorrt_too(light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.infer.tensorrt_double import TensorRTDouble

    double = TensorRTDouble()
    monkeypatch.setattr(backend, "load_library", lambda: double.library)
    monkeypatch.setattr(compile_stage, "find_library", lambda _: double.library)
    assert _run(light, tmp_path) == 0
    bundle = open_bundle(tmp_path / "light", [tmp_path / "light.pem"])
    judged = json.loads(bundle.read("report/gate.json"))[0]
    (gpu,) = [one for one in judged if one["backend"] != "onnxruntime"]
    assert gpu["name"].startswith("plan on tensorrt_rtx 1.7.1.116 (")
    assert gpu["failures"] == []
    assert gpu["plan"] == bundle.manifest.precision["tensorrt"]
    assert set(gpu["agreement"]) == {"classifier", "logits"}
    # The double computes what the graph says; what differs is that it drops half's roundings in between.
    assert 0 < gpu["agreement"]["logits"]["relative"] < 0.01
    text = bundle.read("report/gate.md").decode()
    assert "judged on ONNX Runtime (CPU) and on tensorrt_rtx" in text
    assert "## Agreement of tensorrt_rtx 1.7.1.116" in text
    assert set(Double().counts().values()) == {0}


@pytest.mark.driver_double
def test_an_engine_that_answers_otherwise_is_refused_by_name(
    light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.infer.tensorrt_double import TensorRTDouble

    double = TensorRTDouble()
    # A fifth more: no decision changes, and yet it is not what was judged.
    double.disturb = lambda _, value: value * 1.2
    monkeypatch.setattr(backend, "load_library", lambda: double.library)
    monkeypatch.setattr(compile_stage, "find_library", lambda _: double.library)
    assert _run(light, tmp_path) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "plan on tensorrt_rtx 1.7.1.116" in said
    assert re.search(r"engine of stage classifier: off by (19\.|20\.)", said)
    assert not (tmp_path / "light").exists()
    assert not (tmp_path / "work" / "light" / "candidate").exists()


@pytest.mark.driver_double
def test_an_engine_that_does_not_run_is_refused_by_name(
    light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.infer.tensorrt_double import TensorRTDouble

    double = TensorRTDouble()
    double.runs_fail = True
    monkeypatch.setattr(backend, "load_library", lambda: double.library)
    monkeypatch.setattr(compile_stage, "find_library", lambda _: double.library)
    assert _run(light, tmp_path) == 3
    assert "evaluate: classifier in " in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "light").exists()
