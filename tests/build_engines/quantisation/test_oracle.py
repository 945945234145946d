"""The INT8 oracle against exact integer arithmetic: it holds as the gate opens it, and a saturating one is caught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from build_engines.graphs import serialised
from build_engines.quantisation.half import to_half
from build_engines.quantisation.oracle import LIMIT, Run, _oracle, convolve, prove
from build_engines.quantisation.quantise import prepare, quantise, sites
from edge_runtime.errors import GateRefused
from tests.build_engines import small_graphs as small


def integer(net: ModelProto, feeds: list[dict[str, NDArray[Any]]], products: bool = False) -> ModelProto:
    before = prepare(net)
    found = sites(before, products)
    names = sorted({name for site in found for name in site.activations})
    return quantise(before, small.ranges(before, feeds, names), found)


def sequences(count: int) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(size=(1, 8, 16)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("half", [False, True])
def test_the_gates_own_session_is_exact(half: bool) -> None:
    pictures, words = small.pictures(4), sequences(4)
    nets = [
        (integer(small.camera_net(), pictures), pictures, 4),
        (integer(small.attention_net(), words, products=True), words, 4),
    ]
    for net, feeds, count in nets:
        model = serialised(to_half(net) if half else net)
        proof = prove("vision", model, feeds)
        assert (proof.sites, proof.samples) == (count, 4)
        assert 0 < proof.worst < LIMIT / 3
        assert proof.node


def test_a_graph_without_integers_has_nothing_to_prove() -> None:
    assert prove("vision", serialised(small.camera_net()), small.pictures(1)).sites == 0


def test_exact_on_no_samples_is_no_proof() -> None:
    pictures = small.pictures(1)
    model = serialised(integer(small.camera_net(), pictures))
    with pytest.raises(GateRefused, match=r"vision: its 4 quantised operators .* on no samples"):
        prove("vision", model, [])
    assert prove("vision", model, pictures).samples == 1
    assert prove("vision", serialised(small.camera_net()), []).sites == 0


def disturbed(model: ModelProto) -> Run:
    """As kernels whose 16-bit sums saturate: what is large in the second convolution stays below a bound."""
    run = _oracle(model)

    def saturating(names: Sequence[str], feeds: Any) -> list[NDArray[Any]]:
        found = [np.array(value) for value in run(names, feeds)]
        place = list(names).index("c1")
        found[place] = np.clip(found[place], None, np.float32(0.98) * found[place].max())
        return found

    return saturating


def test_a_saturating_session_is_refused_by_its_node() -> None:
    pictures = small.pictures(2)
    model = serialised(integer(small.camera_net(), pictures))
    with pytest.raises(GateRefused, match=r"vision: node /encoder/layers\.1/Conv: .* exact integer arithmetic"):
        prove("vision", model, pictures, disturbed)


def test_what_the_default_settings_make_of_it_is_caught_where_they_saturate() -> None:
    """Large weights and activations in a product: two such products overflow 16 bits on x86 without VNNI."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="/encoder/product/MatMul")]
    constants = {"w": np.sign(rng.normal(size=(64, 32))).astype(np.float32)}
    net = small.model(nodes, {"x": (TensorProto.FLOAT, [1, 64])}, {"y": (TensorProto.FLOAT, [1, 32])}, constants)
    feeds = [{"x": np.where(constants["w"][None, :, 0] > 0, 1.0, -1.0).astype(np.float32)}]
    model = serialised(integer(net, feeds))
    assert prove("text", model, feeds).worst < LIMIT

    def default(opened: ModelProto) -> Run:
        session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda names, given: session.run(list(names), dict(given))  # type: ignore[no-any-return]

    same: list[bool] = []

    def compared(opened: ModelProto) -> Run:
        # Whether integer kernels are used at all depends on what is asked of the graph: compare on the very graph.
        exact, by_default = _oracle(opened), default(opened)

        def run(names: Sequence[str], given: Any) -> list[NDArray[Any]]:
            found = by_default(names, given)
            same.extend(np.allclose(*pair, rtol=1e-4) for pair in zip(exact(names, given), found, strict=True))
            return found

        return run

    try:
        prove("text", model, feeds, compared)
    except GateRefused as refused:
        assert "text: node /encoder/product/MatMul" in str(refused)
        assert not all(same)
    else:
        assert all(same)
        pytest.skip("this CPU's integer kernels do not saturate, or are not used here")


@pytest.mark.parametrize(
    ("shape", "kernel", "settings"),
    [
        ((2, 6, 9, 11), (4, 6, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ((1, 6, 9, 11), (6, 1, 3, 2), {"group": 6, "dilations": [2, 3]}),
        ((1, 8, 17), (4, 4, 5), {"group": 2, "pads": [2, 1], "strides": [3]}),
    ],
)
def test_convolution_is_that_of_onnx(shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.integers(-9, 10, shape).astype(np.float32), rng.integers(-9, 10, kernel).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **settings)
    ours = convolve(x.astype(np.float64), w.astype(np.float64), settings)
    made = small.model(
        [node], {"x": (TensorProto.FLOAT, list(shape))}, {"y": (TensorProto.FLOAT, list(ours.shape))}, {"w": w}
    )
    assert np.array_equal(small.run(made, {"x": x})[0], ours)
