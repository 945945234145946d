"""FP16 for everything that may take it, in a strongly typed graph with the inputs and outputs it had.

TensorRT builds such a graph as it is written: there is no builder flag that would choose precisions. Which tensors of
an operator may be half is read from the operator's own schema, so that Resize keeps its float scales and an operator
without a half form is wrapped in casts. Quantise and dequantise nodes get half scales, which opset 19 allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from build_engines.graphs import initialisers, readers, tensor_types
from edge_runtime.errors import UserError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_MAX = 65504.0
SMALLEST_SCALE = 6.2e-5
"""Just above the smallest normal half: scales below it would lose bits, or be flushed to 0."""
Float32 = NDArray[np.float32]


def to_half(model: ModelProto, largest: Mapping[str, float] | None = None) -> ModelProto:
    """A copy of `model` in FP16 whose graph inputs and outputs keep their types.

    `largest` is the largest absolute value seen per tensor: what would overflow stays in FP32. Raises UserError for
    graphs below opset 19, whose scales cannot be half.
    """
    if model.opset_import[0].version < 19:
        raise UserError(
            f"half: the graph {model.graph.name!r} has opset {model.opset_import[0].version}; 19 or 20 is needed"
        )
    model = shape_inference.infer_shapes(widen_scales(model), strict_mode=True)
    return _Halving(model, largest or {}).run()


class _Halving:
    """One pass over a copy of a graph."""

    def __init__(self, model: ModelProto, largest: Mapping[str, float]) -> None:
        self._model = model
        self._graph = model.graph
        self._types = tensor_types(model)
        self._constants = initialisers(self._graph)
        self._opset = model.opset_import[0].version
        self._nodes: list[NodeProto] = []
        self._half_of: dict[str, str] = {}
        self._float_of: dict[str, str] = {}
        self._fixed = {value.name for value in (*self._graph.input, *self._graph.output)}
        """Tensors whose type is part of the graph's contract."""
        self._overflowing = {name for name, value in largest.items() if not value < HALF_MAX}
        self._is_half: set[str] = set()

    def run(self) -> ModelProto:
        for node in list(self._graph.node):
            self._convert(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        for tensor in list(self._graph.initializer):
            if tensor.name not in used:
                self._graph.initializer.remove(tensor)
        del self._graph.value_info[:]
        onnx.checker.check_model(self._model, full_check=True)
        return self._model

    def _convert(self, node: NodeProto) -> None:
        overflows = bool(self._overflowing.intersection((*node.input, *node.output)))
        schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}

        def may_be_half(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> bool:
            kind = formals[min(index, len(formals) - 1)].type_str
            return not overflows and "tensor(float16)" in allowed.get(kind, (kind,))

        for index, name in enumerate(node.input):
            if name and self._types.get(name) == FLOAT:
                half = may_be_half(schema.inputs, index)
                node.input[index] = self._as_half(name) if half else self._as_float(name)
        makes_half = may_be_half(schema.outputs, 0)
        self._constant_attributes(node, makes_half)
        tail = []
        for index, name in enumerate(node.output):
            if self._types.get(name) != FLOAT or not makes_half:
                continue
            if name in self._fixed:
                node.output[index] = self._half_of[name] = f"{name}.half"
                tail.append(_cast(node.output[index], name, FLOAT))
            self._is_half.add(node.output[index])
        self._nodes += [node, *tail]

    def _constant_attributes(self, node: NodeProto, makes_half: bool) -> None:
        for attribute in node.attribute:
            if makes_half and node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = HALF
            elif makes_half and attribute.name == "value" and attribute.t.data_type == FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(attribute.t)), ""))

    def _as_half(self, name: str) -> str:
        if name in self._is_half:
            return name
        if name not in self._half_of:
            self._half_of[name] = f"{name}.half"
            self._is_half.add(f"{name}.half")
            if name in self._constants:
                values = numpy_helper.to_array(self._constants[name])
                self._graph.initializer.append(numpy_helper.from_array(_half(values), f"{name}.half"))
            else:
                self._nodes.append(_cast(name, f"{name}.half", HALF))
        return self._half_of[name]

    def _as_float(self, name: str) -> str:
        if name not in self._is_half:
            return name
        if name not in self._float_of:
            self._float_of[name] = f"{name}.float"
            self._nodes.append(_cast(name, f"{name}.float", FLOAT))
        return self._float_of[name]


def _half(values: Float32) -> NDArray[np.float16]:
    """Rounded to half; masks such as -1e9 become the largest half instead of infinity."""
    return np.clip(values, -HALF_MAX, HALF_MAX).astype(np.float16)


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)


def widen_scales(model: ModelProto) -> ModelProto:
    """A copy whose quantisation scales are all normal halves; integer weights are rounded anew where a scale grows.

    Such scales belong to channels whose weights are all but zero, so that the wider step costs next to nothing.
    """
    model = _copy(model)
    constants = initialisers(model.graph)
    reading = readers(model.graph)
    for name in {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}:
        if name not in constants:
            continue
        old = numpy_helper.to_array(constants[name])
        new = np.maximum(old, np.float32(SMALLEST_SCALE))
        if np.array_equal(old, new):
            continue
        constants[name].CopyFrom(numpy_helper.from_array(new, name))
        for node in reading[name]:
            weights = constants.get(node.input[0])
            if node.op_type == "DequantizeLinear" and weights is not None:
                _round_anew(weights, old, new, node)
    return model


def _round_anew(weights: TensorProto, old: Float32, new: Float32, node: NodeProto) -> None:
    whole = numpy_helper.to_array(weights)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * whole.ndim
    if new.ndim:
        shape[axis] = new.size
    scaled = np.rint(whole * (old / new).reshape(shape) if new.ndim else whole * (old / new))
    weights.CopyFrom(numpy_helper.from_array(scaled.astype(whole.dtype), weights.name))


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
