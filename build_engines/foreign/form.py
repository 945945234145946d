"""A graph from elsewhere in the form that the rest of the build takes: fixed shapes, opset 20, constants folded, the
device's conversions in front, proven to say what the file says."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper, numpy_helper

from build_engines.foreign import inputs, opset, proof, trim
from build_engines.foreign.inputs import Feed
from build_engines.foreign.probe import probe
from build_engines.foreign.read import ONNX_DOMAINS, first_line
from build_engines.graphs import constants_to_initialisers, copied, rename_made, serialised
from edge_runtime.bundle import StageInput
from edge_runtime.errors import UserError


def refuse_broken(model: ModelProto, where: str) -> None:
    """Raise UserError unless `model` is valid ONNX."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise unrelated types
        raise UserError(f"{where}: is not a valid ONNX file ({first_line(error)})") from None


def in_form(
    original: ModelProto, feeds: Sequence[Feed], where: str, remarks: list[str]
) -> tuple[ModelProto, Sequence[Feed]]:
    """`original` with fixed shapes, in opset 20, constants folded, and the feeds it takes; proven equal to it. What was
    changed beyond that is added to `remarks`. Raises UserError.
    """
    fixed = copied(original)
    inputs.fix_shapes(fixed, feeds)
    probe(fixed, where)
    reference = proof.open_session(fixed, where, optimise=False)
    drawn = [proof.drawn_inputs(fixed, feeds, seed) for seed in range(proof.TRIALS)]
    try:
        expected = [proof.answers(reference, values) for values in drawn]
    except Exception as error:  # ONNX Runtime raises a family of unrelated types
        raise UserError(f"{where}: ONNX Runtime cannot run it on the streams' shapes ({first_line(error)})") from None
    if any(feed.batch > 1 for feed in feeds):
        single = [feed.one_by_one() for feed in feeds]
        if (model := _without_batch(original, feeds, single, drawn, expected, where)) is not None:
            remarks.append(f"its fixed batch of {max(feed.batch for feed in feeds)} is 1 now")
            return model, single
        remarks.append(f"its fixed batch of {max(feed.batch for feed in feeds)} is filled with copies, which cost time")
    model = _folded_and_converted(fixed, where)
    _prove(model, drawn, expected, opset.opset_of(original), where)
    return model, feeds


def _without_batch(
    original: ModelProto,
    feeds: Sequence[Feed],
    single: Sequence[Feed],
    drawn: Sequence[proof.Arrays],
    expected: Sequence[proof.Arrays],
    where: str,
) -> ModelProto | None:
    """`original` with a batch of 1, or None where something in it insists on the batch it was exported with."""
    model = copied(original)
    inputs.fix_shapes(model, single)
    by_name = {feed.name: feed for feed in feeds}
    try:
        model = _folded_and_converted(model, where)
        session = proof.open_session(model, where)
        for values, right in zip(drawn, expected, strict=True):
            rows = {
                name: value[: value.shape[0] // by_name[name].batch] if by_name[name].batch > 1 else value
                for name, value in values.items()
            }
            first = {name: value[:1] for name, value in right.items()}
            if proof.difference(proof.answers(session, rows), first) > proof.tolerance(model):
                return None
    except Exception:  # whatever it does not bear, it has to keep its batch
        return None
    return model


def _folded_and_converted(model: ModelProto, where: str) -> ModelProto:
    model = _folded(model, where)
    trim.refuse_control_flow(model, where)
    _refuse_open_outputs(model, where)
    if opset.opset_of(model) != opset.OPSET:
        model = _folded(opset.to_opset(model, where), where)
    return model


def _prove(
    model: ModelProto, drawn: Sequence[proof.Arrays], expected: Sequence[proof.Arrays], version: int, where: str
) -> None:
    session = proof.open_session(model, where)
    for values, right in zip(drawn, expected, strict=True):
        apart = proof.difference(proof.answers(session, values), right)
        if apart > proof.tolerance(model):
            raise UserError(
                f"{where}: brought from opset {version} to {opset.OPSET}, it answers otherwise (by {apart:.1%} of the "
                f"largest value); export it with opset {opset.OPSET}"
            )


def _folded(model: ModelProto, where: str) -> ModelProto:
    """The same with constants computed and batch norms folded into convolutions, by ONNX Runtime's basic rules."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a family of unrelated types
            raise UserError(f"{where}: ONNX Runtime cannot load it ({first_line(error)})") from None
        folded = onnx.load(path)
    for extra in [entry for entry in folded.opset_import if entry.domain not in ONNX_DOMAINS]:
        folded.opset_import.remove(extra)
    constants_to_initialisers(folded)
    return inferred(folded, where)


def inferred(model: ModelProto, where: str) -> ModelProto:
    """`model` with all shapes told. Raises UserError where they cannot be."""
    del model.graph.value_info[:]
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:
        raise UserError(
            f"{where}: its shapes cannot be told ({first_line(error)}); export it with fixed shapes"
        ) from None
    return inferred


def _refuse_open_outputs(model: ModelProto, where: str) -> None:
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape") or any(dim.dim_value < 1 for dim in dims):
            raise UserError(
                f"{where}: the shape of its output {value.name!r} depends on what comes in; export it with fixed shapes"
            )


def first_of_batch(model: ModelProto, name: str) -> None:
    """Keep the first row of an output, in place: the graph insists on a batch of which all rows are the same."""
    rename_made(model, name, f"{name}/batch")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{name}/first"))
    model.graph.node.append(helper.make_node("Gather", [f"{name}/batch", f"{name}/first"], [name], axis=0))
    next(value for value in model.graph.output if value.name == name).type.tensor_type.ClearField("shape")


def convert_inputs(model: ModelProto, feeds: Sequence[Feed]) -> tuple[StageInput, ...]:
    """Put the device's conversions into the graph, in place; what it takes then."""
    taken: dict[str, StageInput] = {}
    for feed in feeds:
        if feed.given is None or all(value.name != feed.name for value in model.graph.input):
            continue  # a constant, or one that turned out to change nothing
        spec = inputs.convert_input(model, feed)
        sources = feed.plan.sources
        source = str(sources[0]) if len(sources) == 1 else tuple(map(str, sources))
        layout = "NHWC BGR 0..255" if spec.dtype == "uint8" else ""
        taken[spec.name] = StageInput(spec.name, spec.dtype, spec.shape, source, layout)
    return tuple(taken[value.name] for value in model.graph.input)
