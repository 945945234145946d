"""That an adopted graph still says what the file said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from build_engines.foreign.inputs import Feed
from build_engines.foreign.read import first_line
from build_engines.graphs import serialised
from edge_runtime.errors import UserError

TRIALS = 3
TOLERANCE = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 5e-2}
"""Largest difference, as a share of the largest value, by the type of the output; 1e-3 for all others."""
Arrays = dict[str, NDArray[np.generic]]


def open_session(model: ModelProto, where: str, optimise: bool = True) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime, on the CPU. Raises UserError with what it says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a family of unrelated types
        raise UserError(f"{where}: ONNX Runtime cannot load it ({first_line(error)})") from None


def drawn_inputs(model: ModelProto, feeds: Sequence[Feed], seed: int) -> Arrays:
    """Something for every input of `model` that is no constant, in the shapes of `feeds`: of a fixed batch all rows
    the same.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    rng = np.random.default_rng(seed)
    drawn: Arrays = {}
    for feed in feeds:
        if feed.given is None:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(types[feed.name])
        shape = feed.one_by_one().takes
        if np.issubdtype(dtype, np.floating):
            values = rng.random(shape).astype(dtype)
        elif feed.plan.pixels is not None or (feed.given.dtype == "uint8"):
            values = rng.integers(0, 256, shape).astype(dtype)
        else:  # ids and masks: what every vocabulary has
            values = np.ones(shape, dtype)
        drawn[feed.name] = np.broadcast_to(values, feed.takes) if feed.batch > 1 else values
    return drawn


def answers(session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """What the graph says, by output. Raises what ONNX Runtime raises."""
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    given = {name: np.ascontiguousarray(values) for name, values in inputs.items() if name in wanted}
    return dict(zip(names, session.run(names, given), strict=True))


def difference(ours: Arrays, theirs: Arrays) -> float:
    """The largest difference of any output, as a share of its largest value; infinite where shapes differ."""
    worst = 0.0
    for name, values in theirs.items():
        if ours[name].shape != values.shape or values.dtype.kind not in "fiub":
            return np.inf
        reference = values.astype(np.float64)
        if reference.size:
            own = ours[name].astype(np.float64)
            apart = np.where(np.isnan(own) & np.isnan(reference), 0.0, np.abs(own - reference))
            worst = max(worst, float(np.max(apart)) / max(1e-6, float(np.nanmax(np.abs(reference), initial=0.0))))
    return worst


def tolerance(model: ModelProto) -> float:
    """What `difference` may be at most."""
    return max(TOLERANCE.get(value.type.tensor_type.elem_type, 1e-3) for value in model.graph.output)
