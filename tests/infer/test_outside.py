from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import BundleError
from edge_runtime.infer.outside import outside_files, refuse_outside


def model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 64)) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "location", sides[:1], sides[1:], [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_weights_outside_a_graph_are_found_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    assert outside_files(onnx.load(str(path), load_external_data=False)) == ["net.data"]
    with pytest.raises(BundleError, match="stage s: its graph has weights outside the bundle, in net.data"):
        refuse_outside(path.read_bytes(), "s")


def test_a_graph_with_its_weights_inside_is_not() -> None:
    assert outside_files(model()) == []
    refuse_outside(model().SerializeToString(), "s")
    refuse_outside(b"location, but no graph", "s")
