"""Every rule of the linter on a graph that breaks it, and none on graphs that do not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.graphs import initialisers
from build_engines.quantisation.lint import lint, refuse
from build_engines.quantisation.quantise import prepare, quantise, sites
from edge_runtime.errors import GateRefused
from tests.build_engines import small_graphs as small

FLOATS = {"x": (TensorProto.FLOAT, [1, 4])}, {"y": (TensorProto.FLOAT, [1, 4])}


def _quantised() -> ModelProto:
    model = prepare(small.camera_net())
    found = sites(model)
    names = sorted({name for site in found for name in site.activations})
    return quantise(model, small.ranges(model, small.pictures(4), names), found)


def _findings(model: ModelProto) -> str:
    return "; ".join(f"{one.node}: {one.why}" for one in lint(model))


def test_a_quantised_attention_product_is_refused_by_name_unless_asked_for() -> None:
    model = prepare(small.attention_net())
    found = sites(model, attention_products=True)
    coarse = quantise(model, {name: 4.0 for site in found for name in site.activations}, found)
    assert "/encoder/layers.0/MatMul: a product of two quantised activations" in _findings(coarse)
    with pytest.raises(GateRefused, match="text in int8: node /encoder/layers.0/MatMul"):
        refuse(coarse, "text in int8")
    assert lint(coarse, products_may_be_quantised=True) == []
    only_weights = sites(model)
    assert lint(quantise(model, {"x": 4.0}, only_weights)) == []


def test_a_zero_point_other_than_zero() -> None:
    model = _quantised()
    node = next(one for one in model.graph.node if one.op_type == "QuantizeLinear")
    zero = initialisers(model.graph)[node.input[2]]
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    assert f"{node.name}: its zero point is not 0" in _findings(model)


def test_bytes_that_are_not_cast_first() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    model = small.model(nodes, {"x": (TensorProto.UINT8, [4, 1])}, FLOATS[1], {})
    assert "turn: Transpose reads uint8" in _findings(model)


def test_a_dequantised_bias_and_a_quantised_constant_of_a_sum() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="dq_bias"),
        helper.make_node("Add", ["x", "bias"], ["y"], name="sum"),
    ]
    constants = {"b": np.arange(4, dtype=np.int32), "s": np.float32(0.1)}
    said = _findings(small.model(nodes, *FLOATS, constants))
    assert "an int32 bias is dequantised" in said
    assert "a constant operand of Add sum is quantised" in said


@pytest.mark.parametrize(("opset", "wrong"), [(17, True), (18, True), (19, False), (20, False), (21, True)])
def test_opsets(opset: int, wrong: bool) -> None:
    model = small.model([helper.make_node("Relu", ["x"], ["y"], name="relu")], *FLOATS, {}, opset=opset)
    assert (f"opset {opset}" in _findings(model)) == wrong


def test_shapes_that_are_open_and_integers_that_are_too_wide() -> None:
    model = small.model([helper.make_node("Relu", ["x"], ["y"], name="relu")], *FLOATS, {})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert "x: has no fixed shape" in _findings(model)
    wide = small.model(
        [helper.make_node("Cast", ["x"], ["y"], name="cast", to=TensorProto.FLOAT)],
        {"x": (TensorProto.INT64, [1, 4])},
        FLOATS[1],
        {},
    )
    assert "x: is 64 bits wide" in _findings(wide)


def test_quantisation_that_no_integer_operator_reads() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dq"),
        helper.make_node("Softmax", ["d"], ["y"], name="softmax"),
    ]
    model = small.model(nodes, *FLOATS, {"s": np.float32(0.1), "z": np.int8(0)})
    assert "dq: Softmax softmax reads it, which has no integer form" in _findings(model)


def test_good_graphs_pass() -> None:
    for model in (prepare(small.camera_net()), prepare(small.attention_net()), _quantised()):
        assert lint(model) == []
