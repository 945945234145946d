"""What `bundle verify` finds in graphs that load, and in bundles whose manifest is in order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import bundles
from edge_runtime.bundle import Bundle, SideHead, open_bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.errors import BundleError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer.rehearsal import rehearse
from tests import tiny


@pytest.mark.parametrize("name", ["shipped:home", "shipped:vehicle"])
def test_the_shipped_bundles_decide(name: str) -> None:
    rehearse(open_bundle(bundles.bundle_path(name), allow_unsigned=True))


def _with_graph(folder: Path, file: str, graph: bytes) -> Bundle:
    """The tiny bundle with one graph exchanged, its digest with it."""
    tiny.write_bundle(folder)
    files = dict(open_bundle(folder, allow_unsigned=True).manifest.files)
    tiny.write_bundle(folder, files=files | {file: hashlib.sha256(graph).hexdigest()})
    (folder / file).write_bytes(graph)
    return open_bundle(folder, allow_unsigned=True)


def test_a_division_by_zero_is_found_though_the_graph_loads(tmp_path: Path) -> None:
    bundle = _with_graph(tmp_path / "b", "stages/fusion.fp32.onnx", tiny.fusion_graph(float("nan")))
    with pytest.raises(BundleError, match="head reads stage:fusion:logits, which is not finite") as caught:
        rehearse(bundle)
    assert "\n" not in str(caught.value)


def test_an_input_that_the_manifest_does_not_name_is_found(tmp_path: Path) -> None:
    graph = onnx.load_from_string(tiny.sensors_graph())
    graph.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))
    bundle = _with_graph(tmp_path / "b", "stages/sensors.fp32.onnx", graph.SerializeToString())
    with pytest.raises(BundleError, match="stage sensors: the graph takes the input 'extra'"):
        rehearse(bundle)


def test_a_graph_of_other_types_is_found(tmp_path: Path) -> None:
    graph = onnx.load_from_string(tiny.vision_graph())
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    bundle = _with_graph(tmp_path / "b", "stages/vision.fp32.onnx", graph.SerializeToString())
    with pytest.raises(BundleError, match="the manifest's input 'image' is uint8"):
        rehearse(bundle)


def test_a_table_too_short_for_the_tokenizer_is_found(tmp_path: Path) -> None:
    """Ids of the tokenizer's last pieces lie beyond the table's end: zeros, as in a warm-up, would not show it."""
    table = np.ones((3, 2), np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["mask", "axes"], ["length"], keepdims=1),
        helper.make_node("Add", ["mean", "length"], ["features"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, [1, tiny.TOKENS]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, tiny.TOKENS]),
    ]
    made = helper.make_graph(
        nodes, "text", inputs, [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    bundle = _with_graph(tmp_path / "b", "stages/text.fp32.onnx", model.SerializeToString())
    with pytest.raises(BundleError, match="the stages do not run .*Gather"):
        rehearse(bundle)


def test_a_precision_that_nothing_runs_by_default_is_opened_too(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    tiny.write_bundle(folder)
    manifest = open_bundle(folder, allow_unsigned=True).manifest
    broken = tiny.sensors_graph()
    stages = tuple(
        type(stage)(stage.name, stage.inputs, stage.outputs, stage.files | {"int8": "stages/vision.int8.onnx"})
        if stage.name == "vision"
        else stage
        for stage in manifest.stages
    )
    files = manifest.files | {"stages/vision.int8.onnx": hashlib.sha256(broken).hexdigest()}
    tiny.write_bundle(folder, stages=stages, files=files)
    (folder / "stages/vision.int8.onnx").write_bytes(broken)
    with pytest.raises(BundleError, match="stage vision: the graph takes the input"):
        rehearse(open_bundle(folder, allow_unsigned=True))


def test_verify_is_one_line_either_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = SideHead("twice", SoftmaxHead(tiny.LABELS, "stage:fusion:logits"), DecisionPolicy("stop"))
    good = tiny.write_bundle(tmp_path / "good", side_heads=(side,))
    assert run_command(commands, ["bundle", "verify", str(good), "--allow-unsigned"]) == 0
    assert "is whole and decides" in capsys.readouterr().out
    _with_graph(tmp_path / "bad", "stages/fusion.fp32.onnx", tiny.fusion_graph(float("inf")))
    assert run_command(commands, ["bundle", "verify", str(tmp_path / "bad"), "--allow-unsigned"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run_command(commands, ["bundle", "inspect", str(good), "--allow-unsigned"]) == 0
    assert "beside it, twice (softmax)" in capsys.readouterr().out
