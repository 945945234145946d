"""Take in graphs that somebody else trained: fix their shapes, and put the device's conversions into them.

The result is the FP32 bundle that the rest of the build line starts from, just as it does from a trained model.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from build_engines.adoption import detection, inputs, opset, outputs, proof, trim
from build_engines.adoption.inputs import Feed
from build_engines.adoption.operators import with_known_operators
from build_engines.adoption.probe import probe
from build_engines.adoption.read import ONNX_DOMAINS, files_of, first_line, read_model
from build_engines.adoption.tokenizer import read_tokenizer, with_tokenizer
from build_engines.data.datasets import RECIPE_FILE, recipe_json
from build_engines.graphs import constants_to_initialisers, copied, name_nodes, producers, serialised
from build_engines.recipe import OnnxRecipe, OnnxStage
from build_engines.write_bundle import built_with, tensor_spec, write_bundle
from edge_runtime.bundle import Bundle, Manifest, Stage, StageInput
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
    manifest = Manifest(
        format=1,
        name=recipe.name,
        version=recipe.version,
        head=recipe.output_head,
        trigger=recipe.trigger,
        streams=recipe.streams,
        stages=tuple(stages),
        decision=recipe.decision,
        precision={"default": {stage.name: "fp32" for stage in stages}},
        files={},
        presence=tuple(recipe.streams),
        description=recipe.description,
        licence=recipe.licence,
        attribution=recipe.attribution,
        training={"recipe_sha256": recipe_digest}
        | {f"{plan.name}_sha256": _digest(files_of(Path(plan.file))) for plan in recipe.onnx.stages}
        | built_with(),
    )
    try:
        return write_bundle(target, manifest, files)
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
    _refuse_broken(original, where)
    feeds: Sequence[Feed] = inputs.plan_feeds(plan.inputs, original, recipe.streams, made, len(recipe.streams), where)
    model, feeds = _in_form(original, feeds, where, remarks)
    head = recipe.output_head
    if is_last and not isinstance(head, DetectionHead):
        _make_logits(model, output.field, recipe, where, remarks)
        trim.keep_outputs(model, wanted, where)
    for name in wanted:
        if any(feed.batch > 1 for feed in feeds):
            outputs.first_of_batch(model, name)
    if is_last and isinstance(head, DetectionHead):
        _make_detections(model, head, output.field, recipe, where, remarks)
    stage_inputs = _convert_inputs(model, feeds)
    if is_last:
        model = _inferred(model, where)
        (value,) = (value for value in model.graph.output if value.name == output.field)
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if not isinstance(head, DetectionHead):
            outputs.as_logits(model, output.field, shape, _head_shape(recipe, output, shape))
    name_nodes(model)
    model.ir_version = opset.IR_VERSION
    model = _inferred(model, where)
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


def _refuse_broken(model: ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise unrelated types
        raise UserError(f"{where}: is not a valid ONNX file ({first_line(error)})") from None


def _in_form(
    original: ModelProto, feeds: Sequence[Feed], where: str, remarks: list[str]
) -> tuple[ModelProto, Sequence[Feed]]:
    """`original` with fixed shapes, in opset 20, constants folded, and the feeds it takes; proven equal to it."""
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
    return _inferred(folded, where)


def _inferred(model: ModelProto, where: str) -> ModelProto:
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


def _make_logits(model: ModelProto, name: str, recipe: OnnxRecipe, where: str, remarks: list[str]) -> None:
    head = recipe.onnx.head
    if end := outputs.find_end(model, name, head):
        outputs.take_off(model, end)
        remarks.append(
            f"{end.words} at its end is taken off: the head does the same, and reduced precision is safe before it"
        )
    elif recipe.onnx.probabilities:
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
    known = _inferred(model, where)
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


def _convert_inputs(model: ModelProto, feeds: Sequence[Feed]) -> tuple[StageInput, ...]:
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
