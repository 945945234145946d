"""Explicit INT8: Q/DQ pairs around the operators that gain from it, and nowhere else.

The form that every TensorRT takes (10.3 to 11, and TensorRT-RTX): symmetric, zero points 0, weights per channel, float
bias, activations quantised at the inputs of convolutions and weight matrices, and at both inputs of a residual sum.
LayerNorm, softmax, recurrent cells and embeddings stay as they are, and so do attention products unless the recipe's
`quantise.attention_products` is set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from build_engines.graphs import constants_to_initialisers, initialisers, name_nodes, producers
from edge_runtime.errors import UserError

MIN_CHANNELS = 16
"""A weight matrix with fewer rows or columns has no integer kernel worth having (TensorRT's own rule)."""


@dataclass(frozen=True)
class Site:
    """An operator that may be quantised."""

    node: str
    op: str
    block: str
    """The part of the model it belongs to, from its name: what the sensitivity table ranks."""
    activations: tuple[str, ...]
    """Its inputs whose ranges must be known."""
    product: bool = False
    """A product of two activations, as in attention."""


def prepare(model: ModelProto) -> ModelProto:
    """A copy of `model` ready to be looked at: every node named, constants as initialisers, batch norms folded."""
    prepared = ModelProto()
    prepared.CopyFrom(model)
    constants_to_initialisers(prepared)
    name_nodes(prepared)
    return onnx.shape_inference.infer_shapes(prepared)


def sites(model: ModelProto, attention_products: bool = False) -> list[Site]:
    """The operators of a prepared `model` that may be quantised, in the order they run."""
    graph = model.graph
    constants, makers = initialisers(graph), producers(graph)
    quantisable = []
    for node in graph.node:
        inputs = _activations(node, graph, makers, attention_products)
        if inputs:
            product = node.op_type == "MatMul" and node.input[1] not in constants
            quantisable.append(Site(node.name, node.op_type, block_of(node.name), inputs, product))
    return quantisable


def _activations(
    node: NodeProto, graph: GraphProto, makers: Mapping[str, NodeProto], products: bool
) -> tuple[str, ...]:
    """The activations to quantise at `node`; none if it is to be left alone."""
    constants = initialisers(graph)
    if node.op_type == "Conv" and node.input[1] in constants:
        return (node.input[0],)
    if node.op_type in ("Gemm", "MatMul") and node.input[1] in constants:
        shape = constants[node.input[1]].dims
        return (node.input[0],) if len(shape) == 2 and min(shape) >= MIN_CHANNELS else ()
    if node.op_type == "MatMul":
        return (node.input[0], node.input[1]) if products and node.input[0] not in constants else ()
    if node.op_type == "Add":
        both = [name for name in node.input if name not in constants]
        residual = any(makers[name].op_type == "Conv" for name in both if name in makers)
        # A skip connection only: an Add with a vector on one side is a bias or a position.
        return (both[0], both[1]) if len(both) == 2 and residual else ()
    return ()


def block_of(name: str) -> str:
    """The block a node belongs to: the path up to its first numbered part, or else its parent."""
    parts = [part for part in name.split("/") if part]
    if len(parts) > 1 and parts[0] in ("encoder", "fusion"):
        parts = parts[1:]
    for part in parts[:-1]:
        if re.search(r"[._]\d+$", part):
            return part
    return parts[0] if len(parts) > 1 else name


def quantise(model: ModelProto, thresholds: Mapping[str, float], nodes: Collection[Site]) -> ModelProto:
    """A copy of the prepared FP32 `model` with `nodes` in INT8 and the rest in FP32.

    `thresholds` gives the largest absolute value to represent, per activation. Raises UserError if one is missing.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    needed = {name for site in nodes for name in site.activations}
    if missing := sorted(needed - set(thresholds)):
        raise UserError(f"quantise: no range of {missing[0]!r} in {model.graph.name!r}; run the calibrate stage again")
    if not nodes:
        return model
    ranges = {
        name: (np.array(-thresholds[name], np.float32), np.array(thresholds[name], np.float32)) for name in needed
    }
    kinds = sorted({site.op for site in nodes})
    source = ModelProto()
    source.CopyFrom(model)
    quantiser = QDQQuantizer(
        source,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[site.node for site in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=kinds,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": kinds,
        },
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    quantised: ModelProto = quantiser.model.model
    del quantised.graph.value_info[:]
    quantised.ir_version = model.ir_version
    onnx.checker.check_model(quantised, full_check=True)
    return quantised
