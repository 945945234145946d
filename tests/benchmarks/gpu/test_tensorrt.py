"""The TensorRT part: as far as it goes without a GPU, and the rest on doubles of driver and runtime."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.gpu import tensorrt
from edge_runtime.bundle import Bundle
from edge_runtime.errors import EngineError
from edge_runtime.infer.tensorrt.library import find_library
from tests.cuda.double import Double

STAGES = {"vision", "text", "sensors", "fusion"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.gpu.tensorrt", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def without_a_gpu() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has an NVIDIA driver")


@pytest.mark.usefixtures("without_a_gpu")
def test_without_a_gpu_it_goes_as_far_as_it_can_and_says_what_it_could_not(
    tiny_bundle_path: Path, tmp_path: Path
) -> None:
    if find_library(("tensorrt_rtx",)) is None:
        pytest.skip("tensorrt_rtx is not installed")
    result = run("--bundle", tiny_bundle_path, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "tensorrt.json").read_text())
    assert len(found["missing"]) == 2
    assert all("libcuda.so.1" in reason for reason in found["missing"])
    built = found["figures"]["ahead of time"]
    assert {(one["stage"], one["compute"]) for one in built} == {(s, c) for s in STAGES for c in tensorrt.TARGETS}
    assert all(one["plan_bytes"] > 1000 and one["problems"] == [] for one in built)
    assert found["figures"]["cache round trip, ms"] > 0
    assert "on device" not in found["figures"]
    assert (tmp_path / "tensorrt-sizes.png").stat().st_size > 5000


def test_moments_are_such_as_every_stage_can_meet(tiny_bundle: Bundle) -> None:
    found = tensorrt.moments(tiny_bundle, 5)
    for stage in tiny_bundle.manifest.stages:
        for tensors in found[stage.name]:
            for item in stage.inputs:
                assert (tensors[item.name].dtype, tensors[item.name].shape) == (item.dtype, item.shape)
    assert len({tensors["image"].tobytes() for tensors in found["vision"]}) == 5
    again = tensorrt.moments(tiny_bundle, 5)
    assert all(np.array_equal(a["ids"], b["ids"]) for a, b in zip(found["text"], again["text"], strict=True))


@pytest.mark.driver_double
def test_every_stage_is_measured_through_both_ways_to_cuda(
    tiny_bundle: Bundle, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.infer.tensorrt_double import TensorRTDouble

    double = TensorRTDouble()
    monkeypatch.setattr(tensorrt, "load_library", lambda: double.library)
    monkeypatch.setattr(tensorrt, "first_decision", lambda *_: {"total_s": 1.5})
    figures: dict[str, Any] = {}
    measured, missing = tensorrt.on_device(tiny_bundle, tiny_bundle_path, 20, Console(quiet=True), figures)
    ways = [cuda for cuda in tensorrt.CUDA if not any(reason.startswith(cuda) for reason in missing)]
    assert "cuda-python" in ways
    assert {(one.stage, one.cuda) for one in measured} == {(stage, cuda) for stage in STAGES for cuda in ways}
    assert figures["device"]["compute"] == "8.7"
    assert figures["first_decision_s"] == dict.fromkeys(ways, 1.5)
    for one in measured:
        assert one.launch == ("graph" if one.cuda == "cuda-python" else "library graph")
        assert one.error_rel < 1e-5 and one.error_fp32 < 1e-5
        assert one.run_p99_ms >= one.run_ms > 0 and one.engine_ms >= 0
    # Each stage is built once for each way, and found in the cache the second time.
    assert double.events.count("build") == len(measured)
    assert set(Double().counts().values()) == {0}


@pytest.mark.driver_double
def test_an_engine_that_answers_wrongly_shows_in_the_error(
    tiny_bundle: Bundle, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.infer.tensorrt_double import TensorRTDouble

    double = TensorRTDouble()
    double.disturb = lambda _, value: value * 1.5
    monkeypatch.setattr(tensorrt, "load_library", lambda: double.library)
    monkeypatch.setattr(tensorrt, "first_decision", lambda *_: {"total_s": 1.5})
    measured, _ = tensorrt.on_device(tiny_bundle, tiny_bundle_path, 20, Console(quiet=True), {})
    assert {round(one.error_rel, 3) for one in measured} == {0.5}


@pytest.mark.usefixtures("without_a_gpu")
def test_a_first_decision_that_fails_says_why(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="first decision: .*libcuda"):
        tensorrt.first_decision("tensorrt", "auto", str(tiny_bundle_path), tmp_path)
