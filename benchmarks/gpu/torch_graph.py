"""An ONNX graph run by torch: a second opinion of a stage that needs no TensorRT, on any GPU that torch knows.

For measuring and proving only. The table holds the operators that the shipped stage graphs use; semantics are those
of the ONNX operator specification, opset 20 (https://onnx.ai/onnx/operators/). All that depends on constants is
worked out once, so that a run only enqueues kernels and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from edge_runtime.errors import BundleError

Step = Callable[..., Tensor]
"""A node made ready: its inputs (None where left out) to its output."""

Spec = tuple[np.dtype[Any], tuple[int, ...]]


class Node:
    """A node as its translator sees it: attributes with defaults, and those of its inputs that are constants."""

    def __init__(self, proto: NodeProto, constants: Mapping[str, np.ndarray]) -> None:
        self._attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        self._proto = proto
        self._constants = constants

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value; bytes come as text."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def given(self, index: int) -> bool:
        """Whether there is an input number `index`."""
        return index < len(self._proto.input) and bool(self._proto.input[index])

    def constant(self, index: int) -> np.ndarray:
        """The constant input number `index`. Raises BundleError if it is computed by the graph."""
        name = self._proto.input[index]
        if name not in self._constants:
            raise BundleError(f"{self._proto.op_type} {self._proto.name!r}: its input {name!r} is not a constant")
        return self._constants[name]

    def numbers(self, index: int, attribute: str) -> list[int] | None:
        """Axes and the like, an attribute of older operators and an input of newer ones; None = not given."""
        if self.given(index):
            return [int(value) for value in self.constant(index).reshape(-1)]
        value = self.attribute(attribute, None)
        return None if value is None else [int(one) for one in value]


class TorchGraph:
    """A graph with its constants on `device`, ready to run. Thread: one at a time."""

    def __init__(self, model: bytes, device: torch.device) -> None:
        """Raises BundleError if `model` uses an operator that is not in OPERATORS."""
        graph = onnx.load_from_string(model).graph
        self.inputs: dict[str, Spec] = {value.name: _spec(value) for value in graph.input}
        """Name to NumPy dtype and shape."""
        self.outputs: dict[str, Spec] = {value.name: _spec(value) for value in graph.output}
        constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        steps: list[tuple[NodeProto, Step]] = []
        for proto in graph.node:
            step = _translate(proto, constants)
            if all(name in constants for name in proto.input if name):
                arguments = [torch.from_numpy(constants[name].copy()) if name else None for name in proto.input]
                constants[proto.output[0]] = step(*arguments).numpy()
            else:
                steps.append((proto, step))
        used = {name for proto, _ in steps for name in proto.input} | set(self.outputs)
        self._constants = {
            name: torch.from_numpy(np.array(value)).to(device) for name, value in constants.items() if name in used
        }
        self._steps = [(step, tuple(proto.input), proto.output[0]) for proto, step in steps]
        self._last_use = _last_uses(self._steps, self.outputs)

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. `feeds`: every input, on the graph's device, of the graph's dtype and shape."""
        values: dict[str, Tensor] = {**self._constants, **feeds}
        with torch.inference_mode():
            for (step, inputs, output), done in zip(self._steps, self._last_use, strict=True):
                values[output] = step(*(values[name] if name else None for name in inputs))
                for name in done:
                    del values[name]
        return {name: values[name] for name in self.outputs}


def _spec(value: onnx.ValueInfoProto) -> Spec:
    kind = value.type.tensor_type
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)), tuple(dim.dim_value for dim in kind.shape.dim)


def _last_uses(steps: list[tuple[Step, tuple[str, ...], str]], outputs: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """For each step the values that nothing after it reads: freed at once, as an engine would."""
    seen, result = set(outputs), []
    for _step, inputs, _output in reversed(steps):
        result.append(tuple({name for name in inputs if name and name not in seen}))
        seen |= set(inputs)
    return result[::-1]


def _translate(proto: NodeProto, constants: Mapping[str, np.ndarray]) -> Step:
    make = OPERATORS.get(proto.op_type)
    if make is None or proto.domain not in {"", "ai.onnx"}:
        raise BundleError(f"operator {proto.domain or 'ai.onnx'}.{proto.op_type} has no translation to torch")
    return make(Node(proto, constants))


def _plain(function: Callable[..., Tensor]) -> Callable[[Node], Step]:
    """An operator without settings."""
    return lambda node: function


def _constant(node: Node) -> Step:
    value = torch.from_numpy(numpy_helper.to_array(node.attribute("value", None)).copy())
    return lambda: value


def _cast(node: Node) -> Step:
    dtype = _torch_dtype(helper.tensor_dtype_to_np_dtype(node.attribute("to", 1)))
    return lambda x: x.to(dtype)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _clip(node: Node) -> Step:
    low = float(node.constant(1)) if node.given(1) else None
    high = float(node.constant(2)) if node.given(2) else None
    return lambda x, *_: torch.clamp(x, low, high)


def _concat(node: Node) -> Step:
    axis = node.attribute("axis", 0)
    return lambda *parts: torch.cat(parts, dim=axis)


def _convolution(node: Node) -> Step:
    kernel = node.constant(1).shape[2:]
    stride = node.attribute("strides", [1] * len(kernel))
    dilation = node.attribute("dilations", [1] * len(kernel))
    groups = node.attribute("group", 1)
    pads = node.attribute("pads", [0] * 2 * len(kernel))
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    run = {1: functional.conv1d, 2: functional.conv2d}[len(kernel)]
    if before == after:
        return lambda x, weight, bias=None: run(x, weight, bias, stride, before, dilation, groups)
    # torch wants (left, right) from the last axis on.
    uneven = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return lambda x, weight, bias=None: run(functional.pad(x, uneven), weight, bias, stride, 0, dilation, groups)


def _dequantize(node: Node) -> Step:
    axis = node.attribute("axis", 1)
    return lambda x, scale, zero=None: (
        (x.to(scale.dtype) - (0 if zero is None else _along(zero.to(scale.dtype), x, axis))) * _along(scale, x, axis)
    )


def _quantize(node: Node) -> Step:
    axis = node.attribute("axis", 1)

    def step(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        limits = torch.iinfo(zero.dtype)
        rounded = torch.round(x / _along(scale, x, axis)) + _along(zero.to(x.dtype), x, axis)
        return torch.clamp(rounded, limits.min, limits.max).to(zero.dtype)

    return step


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """One value per index of `axis`, shaped to meet `x`."""
    if values.ndim == 0:
        return values
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _flatten(node: Node) -> Step:
    axis = node.attribute("axis", 1)
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _gather(node: Node) -> Step:
    axis = node.attribute("axis", 0)

    def step(x: Tensor, indices: Tensor) -> Tensor:
        flat = indices.reshape(-1).long()
        flat = torch.where(flat < 0, flat + x.shape[axis], flat)
        around = x.shape[:axis], x.shape[axis:][1:]
        return torch.index_select(x, axis, flat).reshape(*around[0], *indices.shape, *around[1])

    return step


def _gelu(node: Node) -> Step:
    approximate = node.attribute("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _gemm(node: Node) -> Step:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    trans_a, trans_b = node.attribute("transA", 0), node.attribute("transB", 0)

    def step(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if trans_a else a, b.T if trans_b else b
        if c is None:
            product: Tensor = alpha * (a @ b)
            return product
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return step


def _layer_norm(node: Node) -> Step:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)

    def step(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, x.shape[axis:], scale.expand(x.shape[axis:]), bias, epsilon)

    return step


def _reduction(function: Callable[..., Tensor]) -> Callable[[Node], Step]:
    def make(node: Node) -> Step:
        axes, keep = node.numbers(1, "axes"), bool(node.attribute("keepdims", 1))
        return lambda x, *_: function(x, list(range(x.ndim)) if axes is None else axes, keep)

    return make


def _reshape(node: Node) -> Step:
    shape = node.constant(1).tolist()
    return lambda x, *_: x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _slice(node: Node) -> Step:
    starts, ends = node.constant(1).tolist(), node.constant(2).tolist()
    axes = node.constant(3).tolist() if node.given(3) else list(range(len(starts)))
    steps = node.constant(4).tolist() if node.given(4) else [1] * len(starts)

    def step(x: Tensor, *_: Tensor) -> Tensor:
        parts = [slice(None)] * x.ndim
        for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
            parts[axis] = slice(start, end, stride)
        return x[tuple(parts)]

    return step


def _softmax(node: Node) -> Step:
    axis = node.attribute("axis", -1)
    return lambda x: torch.softmax(x, dim=axis)


def _transpose(node: Node) -> Step:
    order = node.attribute("perm", None)
    return lambda x: x.permute(order if order is not None else tuple(reversed(range(x.ndim))))


def _unsqueeze(node: Node) -> Step:
    axes = node.numbers(1, "axes") or []

    def step(x: Tensor, *_: Tensor) -> Tensor:
        rank = x.ndim + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return step


OPERATORS: dict[str, Callable[[Node], Step]] = {
    "Add": _plain(torch.add),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Div": _plain(torch.div),
    "Equal": _plain(torch.eq),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "Pow": _plain(torch.pow),
    "QuantizeLinear": _quantize,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _plain(torch.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
