"""A half-precision graph as a CPU can compute it faithfully.

ONNX Runtime's CPU back end has few half kernels. It computes the rest in single precision and drops the roundings in
between, so that it neither overflows nor loses bits where a GPU would: a wrong witness of what FP16 costs. Here every
half tensor becomes a single-precision one that is rounded to half as soon as it is made. What a GPU keeps wide, the
sums inside convolutions and matrix products, stays wide.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# fmt: off
EXACT = frozenset((
    "Abs", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "Gather",
    "GatherElements", "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "Relu", "Reshape",
    "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
))
# fmt: on
"""Operators whose results are halves wherever their inputs are; a dequantised value goes into an integer product."""


def half_reference(model: bytes) -> bytes:
    """`model` with the same inputs and outputs, computed in single precision with half's roundings; unchanged if it
    has no half tensor."""
    graph_model = onnx.load_from_string(model)
    graph = graph_model.graph
    types = _types(graph_model)
    if HALF not in types.values():
        return model
    fixed = {value.name for value in (*graph.input, *graph.output) if value.type.tensor_type.elem_type == HALF}
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(_wide(tensor), tensor.name))
    nodes: list[NodeProto] = []
    for value in graph.input:
        if value.name in fixed:
            nodes.append(_cast(value.name, f"{value.name}.wide", FLOAT))
    for node in list(graph.node):
        node.input[:] = [f"{name}.wide" if name in fixed else name for name in node.input]
        nodes += _rounded(node, types, fixed)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    wide: bytes = graph_model.SerializeToString()
    return wide


def _rounded(node: NodeProto, types: dict[str, int], fixed: set[str]) -> list[NodeProto]:
    """The node in single precision, followed by the roundings of what it makes."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == HALF:
            attribute.t.CopyFrom(numpy_helper.from_array(_wide(attribute.t), attribute.t.name))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
            attribute.i = FLOAT
    tail: list[NodeProto] = []
    for index, name in enumerate(node.output):
        if types.get(name) != HALF:
            continue
        wide = f"{name}.wide" if name in fixed else name
        if node.op_type in EXACT:
            node.output[index] = wide
        else:
            node.output[index] = f"{name}.raw"
            tail += [_cast(f"{name}.raw", f"{name}.rounded", HALF), _cast(f"{name}.rounded", wide, FLOAT)]
        if name in fixed:
            tail.append(_cast(wide, name, HALF))
    return [node, *tail]


def _types(model: ModelProto) -> dict[str, int]:
    graph: GraphProto = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def _wide(tensor: TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float32)


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/rounding", to=kind)
