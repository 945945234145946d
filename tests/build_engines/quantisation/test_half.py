"""The FP16 pass: same answers, same inputs and outputs, and nothing that a strongly typed compiler would refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.graphs import initialisers, tensor_types
from build_engines.quantisation.half import SMALLEST_SCALE, to_half, widen_scales
from build_engines.quantisation.lint import lint
from build_engines.quantisation.quantise import prepare, quantise, sites
from edge_runtime.errors import UserError
from edge_runtime.infer.half_reference import half_reference
from tests.build_engines import small_graphs as small


def _same_inputs_and_outputs(before: ModelProto, after: ModelProto) -> None:
    for one, other in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        assert [value.SerializeToString() for value in one] == [value.SerializeToString() for value in other]


def _faithful(model: ModelProto, feeds: dict[str, Any]) -> NDArray[Any]:
    """What a GPU would give: with half's overflows, which ONNX Runtime's CPU back end computes away."""
    found: NDArray[Any] = small.run(onnx.load_from_string(half_reference(model.SerializeToString())), feeds)[0]
    return found


def test_a_convolutional_net_keeps_its_answers_and_its_face() -> None:
    before = prepare(small.camera_net())
    after = to_half(before)
    _same_inputs_and_outputs(before, after)
    weights = {tensor.data_type for tensor in after.graph.initializer}
    assert TensorProto.FLOAT not in weights
    for feeds in small.pictures(5):
        (exact,), (half,) = small.run(before, feeds), small.run(after, feeds)
        assert np.linalg.norm(exact - half) < 2e-3 * np.linalg.norm(exact)
        assert half.dtype == np.float32
    assert lint(after) == []


def test_a_mask_of_minus_a_billion_stays_finite() -> None:
    before = prepare(small.attention_net())
    after = to_half(before)
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 8, 16)).astype(np.float32)}
    (exact,), (half,) = small.run(before, feeds), small.run(after, feeds)
    assert np.isfinite(half).all()
    assert half == pytest.approx(exact, abs=2e-2)


def test_what_would_overflow_stays_in_single_precision() -> None:
    constants = {"big": np.float32(1e4), "small": np.float32(1e-4)}
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["large"], name="enlarge"),
        helper.make_node("Mul", ["large", "small"], ["y"], name="shrink"),
    ]
    shape = {"x": (TensorProto.FLOAT, [1, 4])}
    before = small.model(nodes, shape, {"y": (TensorProto.FLOAT, [1, 4])}, constants)
    feeds = {"x": np.array([[1, 10, 100, 1000]], np.float32)}
    assert not np.isfinite(_faithful(to_half(before), feeds)).all()
    kept = to_half(before, {"large": 1e7})
    assert _faithful(kept, feeds) == pytest.approx(feeds["x"], rel=1e-3)
    assert tensor_types(kept)["large"] == TensorProto.FLOAT


def test_inputs_that_must_be_float_by_their_operators_definition_stay_so() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "factors"], ["wide"], name="resize", mode="nearest"),
        helper.make_node("Greater", ["wide", "zero"], ["positive"], name="greater"),
        helper.make_node("Where", ["positive", "wide", "zero"], ["y"], name="where"),
    ]
    constants = {"factors": np.array([1, 1, 2, 2], np.float32), "zero": np.float32(0)}
    shapes = {"x": (TensorProto.FLOAT, [1, 1, 2, 2])}, {"y": (TensorProto.FLOAT, [1, 1, 4, 4])}
    before = small.model(nodes, *shapes, constants)
    after = to_half(before)
    types = tensor_types(after)
    assert types["factors"] == TensorProto.FLOAT
    assert types["wide"] == TensorProto.FLOAT16
    feeds = {"x": np.array([[[[1, -2], [3, 4]]]], np.float32)}
    assert np.array_equal(small.run(after, feeds)[0], small.run(before, feeds)[0])


def test_quantised_graphs_get_half_scales_that_are_normal() -> None:
    before = prepare(small.camera_net())
    # One channel all but dead: its scale would be far below the smallest normal half.
    weights = initialisers(before.graph)["w1"]
    values = numpy_helper.to_array(weights).copy()
    values[3] *= 1e-6
    weights.CopyFrom(numpy_helper.from_array(values, "w1"))
    found = sites(before)
    names = sorted({name for site in found for name in site.activations})
    quantised = quantise(before, small.ranges(before, small.pictures(8), names), found)
    after = to_half(quantised)
    scales = [node.input[1] for node in after.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    constants = initialisers(after.graph)
    assert scales
    for name in scales:
        scale = numpy_helper.to_array(constants[name])
        assert scale.dtype == np.float16
        assert float(scale.min()) >= 6.1e-5
    assert lint(after) == []
    for feeds in small.pictures(5, seed=9):
        (exact,), (half,) = small.run(before, feeds), small.run(after, feeds)
        assert np.linalg.norm(exact - half) < 0.05 * np.linalg.norm(exact)


def test_widening_rounds_the_weights_to_their_new_scale() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="dq", axis=0),
        helper.make_node("MatMul", ["w", "x"], ["y"], name="product"),
    ]
    constants = {
        "q": np.array([[100, -100], [40, 20]], np.int8),
        "s": np.array([SMALLEST_SCALE / 4, 0.5], np.float32),
        "z": np.zeros(2, np.int8),
    }
    shape = {"x": (TensorProto.FLOAT, [2, 1])}, {"y": (TensorProto.FLOAT, [2, 1])}
    wide = widen_scales(small.model(nodes, *shape, constants))
    found = initialisers(wide.graph)
    assert numpy_helper.to_array(found["q"]).tolist() == [[25, -25], [40, 20]]
    assert numpy_helper.to_array(found["s"]) == pytest.approx([SMALLEST_SCALE, 0.5])


def test_an_opset_without_half_scales_is_refused() -> None:
    old = small.model(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, [1])},
        {"y": (TensorProto.FLOAT, [1])},
        {},
        opset=17,
    )
    with pytest.raises(UserError, match="opset 17; 19 or 20"):
        to_half(old)


def test_the_graph_it_is_given_is_left_alone() -> None:
    before = prepare(small.camera_net())
    saved = before.SerializeToString()
    to_half(before)
    assert onnx.load_from_string(saved) == before
