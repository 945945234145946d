"""ONNX Runtime tells nobody what runs here: read off a process of its own, as the library decides at its import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OURS = {
    "edge_runtime": "import edge_runtime.infer.onnxruntime_engine",
    "calibration": "import calibration.ranges",
    "build_engines": "import build_engines.quantisation.plan",
    "benchmarks": "import benchmarks.user_loop",
}
SESSION = """
import onnxruntime
from onnx import TensorProto, helper
sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", sides[:1], sides[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def _run(code: str, home: Path | None) -> str:
    """What a fresh Python prints, both ways, that runs `code` with this home or none."""
    hidden = ("HOME", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("first", OURS.values(), ids=OURS)
def test_nothing_of_onnxruntime_is_written_below_the_home(first: str, tmp_path: Path) -> None:
    assert _run(first + SESSION, tmp_path) == ""
    assert not [found for found in tmp_path.rglob("*") if "onnxruntime" in found.name or "Microsoft" in found.name]


def test_nothing_is_printed_without_a_home() -> None:
    assert _run(OURS["edge_runtime"] + SESSION, None) == ""
