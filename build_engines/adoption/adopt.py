"""Take in graphs that somebody else trained: fix their shapes, and put the device's conversions into them.

The result is the FP32 bundle that the rest of the build line starts from, just as it does from a trained model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from build_engines.adoption import detection, outputs
from build_engines.data.datasets import RECIPE_FILE, recipe_json
from build_engines.foreign import inputs, opset, trim
from build_engines.foreign.form import convert_inputs, first_of_batch, in_form, inferred, refuse_broken
from build_engines.foreign.inputs import Feed
from build_engines.foreign.operators import with_known_operators
from build_engines.foreign.read import files_of, read_model
from build_engines.foreign.tokenizer import read_tokenizer, with_tokenizer
from build_engines.graphs import name_nodes, producers, serialised, tensor_spec
from build_engines.recipe import OnnxRecipe, OnnxStage
from build_engines.write_bundle import write_exact
from edge_runtime.bundle import Bundle, Stage, StageInput
from edge_runtime.errors import BundleError, UserError
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.streams import CameraStream
from edge_runtime.tensor_source import TensorSource, parse_source, stage_output
from edge_runtime.tensors import TensorSpec
from edge_runtime.tokenizer import FILES

Tell = Callable[[str], None]
"""Takes a line for people."""


def adopt(recipe: OnnxRecipe, recipe_digest: str, target: Path, tell: Tell = lambda line: None) -> Bundle:
    """Write the FP32 bundle of the recipe's graphs to `target`; `tell` hears what was changed in them.

    Raises UserError for a graph that does not fit.
    """
    files: dict[str, bytes] = {RECIPE_FILE: recipe_json(recipe)}
    if recipe.onnx.tokenizer:
        kind, tokenizer = read_tokenizer(Path(recipe.onnx.tokenizer))
        files[FILES[kind]] = tokenizer
        recipe = msgspec.structs.replace(recipe, streams=with_tokenizer(recipe.streams, kind))
    stages: list[Stage] = []
    made: dict[TensorSource, TensorSpec] = {}
    for plan in recipe.onnx.stages:
        adopted = adopt_graph(plan, recipe, made)
        name = f"stages/{plan.name}.fp32.onnx"
        files[name] = serialised(adopted.model)
        stages.append(Stage(plan.name, adopted.inputs, adopted.outputs, {"fp32": name}))
        made |= {stage_output(plan.name, output.name): output for output in adopted.outputs}
        for remark in adopted.remarks:
            tell(f"{plan.name}: {remark}")
    digests = {f"{plan.name}_sha256": _digest(files_of(Path(plan.file))) for plan in recipe.onnx.stages}
    training = {"recipe_sha256": recipe_digest} | digests
    try:
        return write_exact(target, recipe, files, stages, training, presence=tuple(recipe.streams))
    except BundleError as error:
        raise UserError(f"recipe {recipe.name}: [onnx] does not fit together: {error}") from None


@dataclass(frozen=True)
class Adopted:
    """A graph as the device will run it."""

    model: ModelProto
    inputs: tuple[StageInput, ...]
    outputs: tuple[TensorSpec, ...]
    remarks: tuple[str, ...]
    """What was changed beyond shapes and conversions, in a line each."""


def adopt_graph(plan: OnnxStage, recipe: OnnxRecipe, made: Mapping[TensorSource, TensorSpec]) -> Adopted:
    """The graph of one stage as the device will feed it: fixed shapes, opset 20, conversions inside, logits out.

    `made` are the outputs of earlier stages. Raises UserError for a graph that does not fit.
    """
    where = f"onnx.stages {plan.name} ({plan.file})"
    remarks: list[str] = []
    original = read_model(Path(plan.file))
    output = parse_source(recipe.onnx.output)
    is_last = output.name == plan.name
    wanted = _outputs_read(recipe, plan.name, original, where)
    if left_out := [value.name for value in original.graph.output if value.name not in wanted]:
        remarks.append(f"outputs that nothing reads are left out: {', '.join(left_out)}")
    trim.keep_outputs(original, wanted, where)
    original = with_known_operators(original, where)
    refuse_broken(original, where)
    feeds: Sequence[Feed] = inputs.plan_feeds(plan.inputs, original, recipe.streams, made, len(recipe.streams), where)
    model, feeds = in_form(original, feeds, where, remarks)
    head = recipe.output_head
    if is_last and not isinstance(head, DetectionHead):
        _make_logits(model, output.field, recipe, where, remarks)
        trim.keep_outputs(model, wanted, where)
    for name in wanted:
        if any(feed.batch > 1 for feed in feeds):
            first_of_batch(model, name)
    if is_last and isinstance(head, DetectionHead):
        _make_detections(model, head, output.field, recipe, where, remarks)
    stage_inputs = convert_inputs(model, feeds)
    if is_last:
        model = inferred(model, where)
        (value,) = (value for value in model.graph.output if value.name == output.field)
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if not isinstance(head, DetectionHead):
            outputs.as_logits(model, output.field, shape, _head_shape(recipe, output, shape))
    name_nodes(model)
    model.ir_version = opset.IR_VERSION
    model = inferred(model, where)
    onnx.checker.check_model(model, full_check=True)
    specs = tuple(tensor_spec(value) for value in model.graph.output)
    return Adopted(model, stage_inputs, specs, tuple(remarks))


def _outputs_read(recipe: OnnxRecipe, stage: str, model: ModelProto, where: str) -> list[str]:
    """The outputs of a stage that the head or another stage reads, in the graph's order."""
    answer = parse_source(recipe.onnx.output)
    made_of = recipe.onnx.detection.outputs if recipe.onnx.head == "detection" else ()
    sources = [stage_output(answer.name, name) for name in made_of] or [answer]
    sources += [source for other in recipe.onnx.stages for item in other.inputs.values() for source in item.sources]
    names = {source.field for source in sources if source.kind == "stage" and source.name == stage}
    known = [value.name for value in model.graph.output]
    if unknown := sorted(names - set(known)):
        there = ", ".join(str(stage_output(stage, name)) for name in known)
        raise UserError(f"{where}: has no output {unknown[0]!r}; there are {there}")
    if not names:
        raise UserError(f"{where}: nothing reads its outputs ({', '.join(known)}); leave the stage out")
    return [name for name in known if name in names]


def _make_logits(model: ModelProto, name: str, recipe: OnnxRecipe, where: str, remarks: list[str]) -> None:
    head = recipe.onnx.head
    if end := outputs.find_end(model, name, head):
        outputs.take_off(model, end)
        remarks.append(
            f"{end.words} at its end is taken off: the head does the same, and reduced precision is safe before it"
        )
    elif recipe.onnx.probabilities:
        if mean := outputs.averaged_shares(model, name):
            remarks.append(f"warning: its output is the {mean}: {outputs.AVERAGED}")
        outputs.logits_of_probabilities(model, name, head, where)


def _make_detections(
    model: ModelProto, head: DetectionHead, name: str, recipe: OnnxRecipe, where: str, remarks: list[str]
) -> None:
    """Write the detector's form out in the graph, in place."""
    plan = recipe.onnx.detection
    if plan.form == "plain":
        return
    if name in producers(model.graph):
        raise UserError(f"{where}: has an output {name!r} already; call onnx.output something new, as 'detections'")
    known = inferred(model, where)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in known.graph.output
    }
    camera = recipe.streams[head.camera]
    assert isinstance(camera, CameraStream), "the recipe's checks say so"
    detection.assemble(model, name, plan, len(recipe.labels), (camera.width, camera.height), shapes, where)
    remarks.append(f"its outputs are read as {plan.form}: boxes in shares of the picture, a score for each label")


def _head_shape(recipe: OnnxRecipe, output: TensorSource, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What the head reads. Raises UserError where the output has not a value for each label."""
    wanted = recipe.output_head.shape(recipe.streams) or shape
    if int(np.prod(shape)) != int(np.prod(wanted)):
        raise UserError(
            f"recipe {recipe.name}: {output} has shape {list(shape)}, but there are {len(recipe.labels)} labels; list "
            "the labels in the order of the graph's outputs"
        )
    return wanted


def _digest(files: Sequence[Path]) -> str:
    """sha256 (hex) over the files' bytes; of a single one, its own."""
    total = hashlib.sha256()
    for file in files:
        total.update(_read(file))
    return total.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the recipe's paths") from None
