"""Where Q/DQ pairs go, what they are, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from build_engines.graphs import initialisers, readers
from build_engines.quantisation.lint import lint
from build_engines.quantisation.quantise import block_of, prepare, quantise, sites
from edge_runtime.errors import UserError
from tests.build_engines import small_graphs as small


def test_convolutions_weight_matrices_and_skips_are_sites() -> None:
    found = sites(prepare(small.camera_net()))
    assert [(site.op, site.block, site.activations) for site in found] == [
        ("Conv", "layers.0", ("planes",)),
        ("Conv", "layers.1", ("r0",)),
        ("Add", "layers.1", ("c1", "r0")),
        ("Gemm", "head", ("pooled",)),
    ]


def test_attention_products_are_left_alone_unless_asked_for() -> None:
    model = prepare(small.attention_net())
    assert [site.node for site in sites(model)] == [
        "/encoder/layers.0/query/MatMul",
        "/encoder/layers.0/key/MatMul",
    ]
    asked = [site for site in sites(model, attention_products=True) if site.product]
    assert [site.activations for site in asked] == [("q", "kt"), ("shares", "x")]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("/encoder/layers/layers.2/layers.2.0/Conv", "layers.2"),
        ("/encoder/layers.0/query/MatMul", "layers.0"),
        ("/encoder/head/project/Gemm", "head"),
        ("/fusion/attention/query/MatMul", "attention"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0"),
        ("node_conv2d_3", "node_conv2d_3"),
    ],
)
def test_blocks_are_read_off_names(name: str, block: str) -> None:
    assert block_of(name) == block


def test_the_form_is_what_every_tensorrt_takes() -> None:
    before = prepare(small.camera_net())
    found = sites(before)
    names = sorted({name for site in found for name in site.activations})
    thresholds = small.ranges(before, small.pictures(8), names)
    after = quantise(before, thresholds, found)
    assert lint(after) == []
    constants, reading = initialisers(after.graph), readers(after.graph)
    for node in after.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not numpy_helper.to_array(constants[node.input[2]]).any()
    # Weights: int8, one scale per output channel; the bias as it was.
    for weight, channels in (("w0", 16), ("w1", 16), ("w2", 16)):
        (dequantise,) = [
            n for n in after.graph.node if n.op_type == "DequantizeLinear" and n.input[0].startswith(weight)
        ]
        assert numpy_helper.to_array(constants[dequantise.input[0]]).dtype == np.int8
        assert numpy_helper.to_array(constants[dequantise.input[1]]).shape == (channels,)
    for bias in ("b0", "b1", "b2"):
        assert [node.op_type for node in reading[bias]] in (["Conv"], ["Gemm"])
    # Each activation's scale is its threshold over 127.
    for name in names:
        (quantiser,) = [n for n in after.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == name]
        scale = float(numpy_helper.to_array(constants[quantiser.input[1]]))
        assert scale == pytest.approx(thresholds[name] / 127, rel=1e-5)
    for feeds in small.pictures(5, seed=5):
        (exact,), (coarse,) = small.run(before, feeds), small.run(after, feeds)
        assert 0 < np.linalg.norm(exact - coarse) < 0.05 * np.linalg.norm(exact)


def test_only_the_sites_asked_for_are_quantised() -> None:
    before = prepare(small.camera_net())
    head = [site for site in sites(before) if site.block == "head"]
    after = quantise(before, {"pooled": 1.0}, head)
    assert sum(node.op_type == "DequantizeLinear" for node in after.graph.node) == 2
    assert quantise(before, {}, []) is before


def test_a_missing_range_is_named() -> None:
    before = prepare(small.camera_net())
    with pytest.raises(UserError, match="no range of 'c1'"):
        quantise(before, {"planes": 1.0, "r0": 1.0, "pooled": 1.0}, sites(before))
