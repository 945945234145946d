"""What TensorRT or ONNX Runtime would refuse or silently take wrongly in a stage's graph: which node, and why.

Each rule was met in practice with TensorRT 10.3 to 11 or TensorRT-RTX 1.7, or with ONNX Runtime's CPU back end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from msgspec import Struct
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from build_engines.graphs import initialisers, producers, readers, tensor_types
from build_engines.quantisation.half import SMALLEST_SCALE
from edge_runtime.errors import GateRefused

OPSETS = (19, 20)
MAX_IR = 10
INTEGER_OPS = ("Conv", "MatMul", "Gemm", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Concat")
"""Operators that have integer kernels; reshaping ones pass integers through."""
PASSING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Relu")
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


class Finding(Struct, frozen=True):
    """One thing wrong with a graph."""

    node: str
    why: str


def lint(model: ModelProto, products_may_be_quantised: bool = False) -> list[Finding]:
    """Everything found in `model`, in the order of its nodes; empty = fit to ship."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [Finding("(graph)", f"ONNX itself refuses it: {str(error).strip().splitlines()[0]}")]
    return [*_whole(model), *_nodes(model, products_may_be_quantised)]


def refuse(model: ModelProto, name: str, products_may_be_quantised: bool = False) -> None:
    """Raise GateRefused naming the first finding and the number of the others."""
    findings = lint(model, products_may_be_quantised)
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise GateRefused(f"{name}: node {findings[0].node}: {findings[0].why}{more}")


def _whole(model: ModelProto) -> Iterator[Finding]:
    for imported in model.opset_import:
        if imported.domain not in ("", "ai.onnx"):
            yield Finding("(graph)", f"uses the operator domain {imported.domain!r}, which TensorRT does not know")
        elif imported.version not in OPSETS:
            yield Finding("(graph)", f"opset {imported.version}; {OPSETS[0]} or {OPSETS[1]} is read everywhere")
    if model.ir_version > MAX_IR:
        yield Finding("(graph)", f"IR version {model.ir_version}; at most {MAX_IR} is read by older ONNX Runtimes")
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        if any(not dim.HasField("dim_value") for dim in kind.shape.dim):
            yield Finding(value.name, "has no fixed shape; a device cannot plan such a graph")
        if kind.elem_type in (TensorProto.DOUBLE, TensorProto.INT64):
            yield Finding(value.name, "is 64 bits wide, which doubles the copy and which TensorRT narrows or refuses")


def _nodes(model: ModelProto, products: bool) -> Iterator[Finding]:
    graph, types = model.graph, tensor_types(model)
    constants, makers, reading = initialisers(graph), producers(graph), readers(graph)
    for node in graph.node:
        first = types.get(node.input[0]) if node.input else None
        if first == TensorProto.UINT8 and node.op_type != "Cast":
            yield Finding(node.name, f"{node.op_type} reads uint8; TensorRT has uint8 at inputs only, cast it first")
        if node.op_type in QUANTISERS:
            yield from _quantiser(node, constants, types)
        if node.op_type == "DequantizeLinear":
            yield from _dequantised(node, constants, reading)
        if node.op_type == "MatMul" and not products and all(_integer(name, makers) for name in node.input):
            weights = makers[node.input[1]].input[0] in constants or makers[node.input[0]].input[0] in constants
            if not weights:
                yield Finding(node.name, "a product of two quantised activations (attention) loses most; leave it out")
        if node.op_type in ("LSTM", "GRU", "RNN"):
            yield from _recurrent(node)
        if node.op_type == "Attention":
            yield Finding(node.name, "the Attention operator is not known to TensorRT 10; export its parts")


def _integer(name: str, makers: dict[str, NodeProto]) -> bool:
    return name in makers and makers[name].op_type == "DequantizeLinear"


def _quantiser(node: NodeProto, constants: dict[str, TensorProto], types: dict[str, int]) -> Iterator[Finding]:
    if node.input[1] not in constants:
        yield Finding(node.name, "its scale is computed at run time; TensorRT needs a constant")
        return
    scale = numpy_helper.to_array(constants[node.input[1]])
    if not np.isfinite(scale).all() or (scale <= 0).any():
        yield Finding(node.name, "its scale is not a positive number")
    elif scale.dtype == np.float16 and float(scale.min()) < SMALLEST_SCALE * 0.98:
        yield Finding(node.name, f"its half scale {float(scale.min()):.2e} is below the normal range; widen it")
    if len(node.input) > 2 and node.input[2]:
        zero = constants.get(node.input[2])
        if zero is None or np.any(numpy_helper.to_array(zero)):
            yield Finding(node.name, "its zero point is not 0; TensorRT takes symmetric quantisation only")
        elif zero.data_type != TensorProto.INT8:
            kind = TensorProto.DataType.Name(zero.data_type)
            yield Finding(node.name, f"its zero point is {kind}; TensorRT takes INT8 here")
    if node.op_type == "DequantizeLinear" and types.get(node.input[0]) == TensorProto.INT32:
        yield Finding(node.name, "an int32 bias is dequantised; TensorRT wants the bias as it was, in float")


def _dequantised(
    node: NodeProto, constants: dict[str, TensorProto], reading: dict[str, list[NodeProto]]
) -> Iterator[Finding]:
    used = reading.get(node.output[0], [])
    if not used:
        yield Finding(node.name, "nothing reads what it gives")
    for reader in used:
        if reader.op_type not in (*INTEGER_OPS, *PASSING):
            yield Finding(
                node.name,
                f"{reader.op_type} {reader.name} reads it, which has no integer form: precision lost, no time won",
            )
        elif reader.op_type in ("Add", "Mul") and node.input[0] in constants:
            yield Finding(
                node.name, f"a constant operand of {reader.op_type} {reader.name} is quantised; TensorRT refuses it"
            )


def _recurrent(node: NodeProto) -> Iterator[Finding]:
    settings = {attribute.name: attribute for attribute in node.attribute}
    if "layout" in settings and settings["layout"].i:
        yield Finding(node.name, f"{node.op_type} with layout 1 is not known to TensorRT; use layout 0")
    if node.op_type == "LSTM" and "input_forget" in settings and settings["input_forget"].i:
        yield Finding(node.name, "LSTM with coupled input and forget gates is not known to TensorRT")
