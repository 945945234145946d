"""Proof that ONNX Runtime computes INT8 here as integers would: every quantised operator against numpy.

The gate takes ONNX Runtime's CPU back end for what a GPU's integer kernels give. With other settings it does not: on
x86 without VNNI it saturates 16-bit sums (onnxruntime issue 12088), and it has rewritten mixed graphs wrongly. So at
each build every operator that reads dequantised values is computed again from the very INT8 values that the session
had: products summed as integers (in float64, which holds them exactly up to 2^53), times the scales, plus the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from msgspec import Struct
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from build_engines.graphs import initialisers, producers
from edge_runtime.errors import GateRefused
from edge_runtime.infer.half_reference import half_reference
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.messages import Tensors

SAMPLES = 4
LIMIT = 1e-5
"""Largest difference over the sum of the products' absolute values: what the session's sums in single precision may
lose (2^-24 a step, over some thousand steps that partly cancel). A saturated sum is off by a hundred times as much."""
SITES = ("Conv", "MatMul", "Gemm", "Add")
Float64 = NDArray[np.float64]
Run = Callable[[Sequence[str], Tensors], Sequence[NDArray[Any]]]
"""Takes names of tensors and the inputs; gives the tensors."""


class Proof(Struct, frozen=True):
    """What was held against exact arithmetic, and how near it came."""

    sites: int
    samples: int
    worst: float
    """Largest difference over the sum of the products' absolute values."""
    node: str
    """Where that was; empty if there is no site."""


@dataclass(frozen=True)
class _Operand:
    """One input of a site: INT8 values, and the scale that they are multiplied by."""

    tensor: str
    """The INT8 tensor: made by the session, or a constant."""
    scale: Float64
    axis: int


@dataclass(frozen=True)
class _Site:
    node: NodeProto
    operands: tuple[_Operand, ...]
    """The first two inputs."""
    bias: Float64 | None


def prove(
    stage: str, model: bytes, samples: Sequence[Tensors], open_session: Callable[[ModelProto], Run] | None = None
) -> Proof:
    """Compare every quantised operator of `model` (ONNX bytes) with exact arithmetic on the first few `samples`.

    `open_session` opens what is to be proven: by default what the gate itself judges with. Raises GateRefused naming
    the node and the difference where it does not hold, and where there is an operator to compare and no sample.
    """
    written = onnx.load_from_string(half_reference(model))
    constants, sites = initialisers(written.graph), _sites(written.graph)
    values = {name: numpy_helper.to_array(tensor) for name, tensor in constants.items()}
    tensors = [site.node.output[0] for site in sites]
    tensors += [operand.tensor for site in sites for operand in site.operands if operand.tensor not in constants]
    tensors = list(dict.fromkeys(tensors))
    if sites and not samples:
        raise GateRefused(
            f"quantise: {stage}: its {len(sites)} quantised operators were held against exact arithmetic on no "
            "samples; evaluate moments that feed it"
        )
    run = (open_session or _oracle)(_opened(written, tensors))
    worst, where = 0.0, ""
    for feeds in samples[:SAMPLES] if sites else []:
        observed = values | dict(zip(tensors, run(tensors, feeds), strict=True))
        for site in sites:
            off = _difference(site, observed)
            if not off <= LIMIT:
                raise GateRefused(
                    f"quantise: {stage}: node {site.node.name}: ONNX Runtime is off by {off:.2e} from exact integer "
                    f"arithmetic (at most {LIMIT:.0e}): INT8 figures from this machine would mean nothing; use the "
                    "version of onnxruntime that the project names"
                )
            if off > worst or not where:
                worst, where = off, site.node.name
    return Proof(len(sites), min(len(samples), SAMPLES), worst, where)


def _oracle(model: ModelProto) -> Run:
    """As the gate's engines are opened."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1, "int8"), providers=["CPUExecutionProvider"]
    )
    return lambda names, feeds: session.run(list(names), dict(feeds))


def _opened(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """`model` with `tensors` among its outputs."""
    already = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in already)
    return model


def _sites(graph: GraphProto) -> list[_Site]:
    constants, makers = initialisers(graph), producers(graph)
    sites = []
    for node in graph.node:
        operands = [_operand(name, makers, constants) for name in node.input[:2]]
        whole = tuple(operand for operand in operands if operand is not None)
        if node.op_type not in SITES or len(whole) < 2:
            continue
        bias = numpy_helper.to_array(constants[node.input[2]]).astype(np.float64) if len(node.input) > 2 else None
        sites.append(_Site(node, whole, bias))
    return sites


def _operand(name: str, makers: Mapping[str, NodeProto], constants: Mapping[str, onnx.TensorProto]) -> _Operand | None:
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    return _Operand(node.input[0], numpy_helper.to_array(constants[node.input[1]]).astype(np.float64), axis)


def _difference(site: _Site, seen: Mapping[str, NDArray[Any]]) -> float:
    """Largest |session - exact| over the sum of the products' absolute values, of any output element."""
    actual = np.asarray(seen[site.node.output[0]], np.float64)
    exact, size = _exact(site, seen)
    if actual.shape != exact.shape or not np.isfinite(actual).all():
        return float("inf")
    return float((np.abs(actual - exact) / np.maximum(size, 1e-30)).max(initial=0.0))


def _exact(site: _Site, seen: Mapping[str, NDArray[Any]]) -> tuple[Float64, Float64]:
    """What the operator gives in exact arithmetic, and the sum of the absolute values of all that it adds up."""
    node, (left, right) = site.node, site.operands
    x, w = (np.asarray(seen[operand.tensor], np.float64) for operand in (left, right))
    product: Callable[[Float64, Float64], Float64]
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Add":
        left_term, right_term = x * left.scale, w * right.scale
        return left_term + right_term, np.abs(left_term) + np.abs(right_term)
    if node.op_type == "Conv":
        scale, bias = _along(right, 0, 1, x.ndim), site.bias
        bias = None if bias is None else bias.reshape(-1, *[1] * (x.ndim - 2))
        product = partial(convolve, settings=settings)
        alpha = beta = 1.0
    else:
        if settings.get("transA"):
            x = x.T
        turned = bool(settings.get("transB"))
        scale, bias = _along(right, 0 if turned else w.ndim - 1, -1, w.ndim), site.bias
        w = w.T if turned else w
        product = _times
        alpha, beta = float(settings.get("alpha", 1.0)), float(settings.get("beta", 1.0))
    factor = alpha * left.scale * scale
    added = np.zeros(()) if bias is None else beta * bias
    return product(x, w) * factor + added, product(np.abs(x), np.abs(w)) * np.abs(factor) + np.abs(added)


def _times(x: Float64, w: Float64) -> Float64:
    product: Float64 = x @ w
    return product


def _along(operand: _Operand, axis: int, place: int, dimensions: int) -> Float64:
    """The scale of the weights, one per output channel (`axis` of theirs), shaped to multiply an output whose channels
    are its dimension `place`. Raises GateRefused if it goes along another axis, which no integer sum allows."""
    if operand.scale.size == 1:
        return operand.scale.reshape(())
    if operand.axis % dimensions != axis:
        raise GateRefused(f"quantise: {operand.tensor} has scales along axis {operand.axis}, which is summed over")
    return operand.scale if place == -1 else operand.scale.reshape(-1, *[1] * (dimensions - 2))


def convolve(x: Float64, w: Float64, settings: Mapping[str, Any]) -> Float64:
    """ONNX's Conv without bias: `x` [N, C, ...], `w` [M, C / group, ...]; explicit pads."""
    space = x.ndim - 2
    strides = tuple(settings.get("strides", [1] * space))
    dilations = tuple(settings.get("dilations", [1] * space))
    pads, group = settings.get("pads", [0] * 2 * space), int(settings.get("group", 1))
    x = np.pad(x, [(0, 0), (0, 0), *((pads[i], pads[space + i]) for i in range(space))])
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(w.shape[2:], dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    places = tuple(slice(None, None, stride) for stride in strides)
    taps = tuple(slice(None, None, dilation) for dilation in dilations)
    index = (slice(None), slice(None), *places, *taps)
    windows = windows[index]
    parts = []
    for piece, kernel in zip(np.split(windows, group, axis=1), np.split(w, group, axis=0), strict=True):
        axes = [1, *range(2 + space, 2 + 2 * space)]
        parts.append(np.moveaxis(np.tensordot(piece, kernel, axes=(axes, list(range(1, kernel.ndim)))), -1, 1))
    return np.concatenate(parts, axis=1)
