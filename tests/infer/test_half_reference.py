"""On a CPU, half-precision graphs are computed with half's own roundings and overflows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from build_engines.quantisation.half import to_half
from build_engines.quantisation.quantise import prepare
from edge_runtime.infer.half_reference import half_reference
from tests.build_engines import small_graphs as small

HALVES = st.lists(st.floats(-200, 200, width=16, allow_subnormal=False), min_size=4, max_size=4)


def _chain() -> bytes:
    """x * a + b in half, with x, a and b halves already."""
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["product"], name="mul"),
        helper.make_node("Add", ["product", "b"], ["y"], name="add"),
    ]
    kinds = {"x": (TensorProto.FLOAT16, [1, 4])}, {"y": (TensorProto.FLOAT16, [1, 4])}
    return small.model(nodes, *kinds, {"a": np.float16(1.0009766), "b": np.float16(-3)}).SerializeToString()


@given(HALVES)
def test_every_step_is_rounded_as_numpy_rounds_halves(values: list[float]) -> None:
    x = np.array([values], np.float16)
    (found,) = small.run(onnx.load_from_string(half_reference(_chain())), {"x": x})
    assert found.dtype == np.float16
    assert np.array_equal(found, x * np.float16(1.0009766) + np.float16(-3))


def test_it_overflows_where_a_gpu_would() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["large"], name="enlarge"),
        helper.make_node("Mul", ["large", "small"], ["y"], name="shrink"),
    ]
    constants = {"big": np.float32(1e4), "small": np.float32(1e-4)}
    kinds = {"x": (TensorProto.FLOAT, [1, 2])}, {"y": (TensorProto.FLOAT, [1, 2])}
    half = to_half(small.model(nodes, *kinds, constants))
    (found,) = small.run(
        onnx.load_from_string(half_reference(half.SerializeToString())), {"x": np.array([[1, 10]], np.float32)}
    )
    assert found[0, 0] == pytest.approx(1, rel=1e-2)
    assert np.isinf(found[0, 1])


def test_a_whole_net_is_close_to_single_precision_and_differs_from_it() -> None:
    exact = prepare(small.camera_net())
    half = onnx.load_from_string(half_reference(to_half(exact).SerializeToString()))
    onnx.checker.check_model(half, full_check=True)
    for feeds in small.pictures(4):
        (one,), (other,) = small.run(exact, feeds), small.run(half, feeds)
        assert 0 < np.linalg.norm(one - other) < 2e-3 * np.linalg.norm(one)


def test_graphs_without_halves_are_left_alone() -> None:
    model = small.camera_net().SerializeToString()
    assert half_reference(model) is model
