"""Operators that every target knows: newer ones are written out in older ones, all others refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner

from build_engines.foreign import opset, trim
from build_engines.foreign.read import ONNX_DOMAINS, first_line, nodes_of
from build_engines.graphs import initialisers
from edge_runtime.errors import UserError

QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul")
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
NUMBERS = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8,
    TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64,
)  # fmt: skip
"""Types of constants that ONNX Runtime calculates with on a CPU."""


def with_known_operators(model: ModelProto, where: str) -> ModelProto:
    """`model` with what came after opset 20 written out, where ONNX says how. Raises UserError for operators that no
    target knows or that make a decision depend on chance, naming the first."""
    trim.refuse_foreign(model, where)
    for problem in _problems(model):
        raise UserError(f"{where}: {problem}")
    model = _written_out(model, where)
    opset.refuse_opset(model, where)
    return model


def _problems(model: ModelProto) -> Iterator[str]:
    constants = initialisers(model.graph)
    for node in nodes_of(model.graph):
        called = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.op_type in QUANTISED:
            yield f"{called} is of a model that is quantised already; give the float one, of which the build makes INT8"
        if node.op_type in RANDOM:
            yield f"{called} draws random numbers: the same input would be decided on otherwise; export it without"
        if _learns(node, constants):
            yield f"{called} is as in training, where it changes with the batch or by chance; export model.eval()"
    for tensor in model.graph.initializer:
        if tensor.data_type not in NUMBERS:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            yield f"its constant {tensor.name!r} is {kind}; export it in float32 or float16"


def _learns(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether a batch norm takes its statistics from the batch, or a dropout drops."""
    if node.op_type == "BatchNormalization":
        mode = next((item.i for item in node.attribute if item.name == "training_mode"), 0)
        return bool(mode) or sum(bool(name) for name in node.output) > 1
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in constants:
        return bool(onnx.numpy_helper.to_array(constants[node.input[2]]))
    return False


def _written_out(model: ModelProto, where: str) -> ModelProto:
    """The same with operators that opset 20 lacks replaced by what ONNX defines them as."""
    version = opset.opset_of(model)
    if not opset.OPSET < version <= onnx.defs.onnx_opset_version():
        return model
    newer = sorted(
        {
            node.op_type
            for node in nodes_of(model.graph)
            if node.domain in ONNX_DOMAINS and opset.newer_than(node) and _has_definition(node.op_type, version)
        }
    )
    if not newer:
        return model
    try:
        typed = onnx.shape_inference.infer_shapes(model)
        typed.graph.value_info.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in typed.graph.initializer
        )
        return inliner.inline_selected_functions(typed, [("", name) for name in newer], inline_schema_functions=True)
    except Exception as error:  # onnx raises RuntimeError and its own types
        raise UserError(
            f"{where}: {', '.join(newer)} cannot be written out in operators of opset {opset.OPSET} "
            f"({first_line(error)}); export it with opset {opset.OPSET}"
        ) from None


def _has_definition(operator: str, version: int) -> bool:
    try:
        schema = onnx.defs.get_schema(operator, version, "")
    except onnx.defs.SchemaError:
        return False
    return bool(getattr(schema, "has_function", False) or getattr(schema, "has_context_dependent_function", False))
