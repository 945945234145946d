"""Take in graphs that somebody else trained: fix their shapes, and put the device's conversions into them.

The result is the FP32 bundle that the rest of the build line starts from, just as it does from a trained model.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from build_engines.data.datasets import RECIPE_FILE, recipe_json
from build_engines.graphs import constants_to_initialisers, name_nodes
from build_engines.recipe import OnnxModel, OnnxRecipe, OnnxStage, PixelRecipe
from build_engines.write_bundle import tensor_spec, write_bundle
from edge_runtime.bundle import TOKENIZER, Bundle, Manifest, Stage, StageInput
from edge_runtime.errors import BundleError, UserError
from edge_runtime.infer.outside import outside_files
from edge_runtime.streams import CameraStream, StreamSpec
from edge_runtime.tensor_source import parse_source, stage_output

OPSET, IR_VERSION = 20, 10
SMALLEST_PROBABILITY = 1e-12
ONNX_DOMAINS = ("", "ai.onnx")
_SHAPE_ONLY = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operators behind which an output's values are still what they were."""


def adopt(recipe: OnnxRecipe, recipe_digest: str, target: Path) -> Bundle:
    """Write the FP32 bundle of the recipe's graphs to `target`. Raises UserError for a graph that does not fit."""
    files: dict[str, bytes] = {RECIPE_FILE: recipe_json(recipe)}
    stages = []
    for plan in recipe.onnx.stages:
        graph = adopt_graph(plan, recipe.onnx, recipe.streams)
        name = f"stages/{plan.name}.fp32.onnx"
        files[name] = graph.SerializeToString()
        stages.append(_describe(plan, graph, name))
    if recipe.onnx.tokenizer:
        files[TOKENIZER] = _read(Path(recipe.onnx.tokenizer))
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
        | {f"{plan.name}_sha256": hashlib.sha256(_read(Path(plan.file))).hexdigest() for plan in recipe.onnx.stages},
    )
    _check_output(recipe, stages)
    try:
        return write_bundle(target, manifest, files)
    except BundleError as error:
        raise UserError(f"recipe {recipe.name}: [onnx] does not fit together: {error}") from None


def adopt_graph(plan: OnnxStage, model: OnnxModel, streams: dict[str, StreamSpec]) -> ModelProto:
    """The graph of one stage as the device will feed it: fixed shapes, opset 20, conversions inside."""
    where = f"onnx.stages {plan.name} ({plan.file})"
    try:
        graph = onnx.load_from_string(_read(Path(plan.file)))
    except DecodeError as error:
        raise UserError(f"{where}: is not a valid ONNX file ({error})") from None
    _refuse_outside(graph, where)
    _refuse_other_domains(graph, where)
    try:
        onnx.checker.check_model(graph)
    except Exception as error:  # protobuf and onnx raise unrelated types
        raise UserError(f"{where}: is not a valid ONNX file ({str(error).splitlines()[0]})") from None
    graph = _in_opset(graph, where)
    _check_inputs(plan, graph, where)
    _fix_shapes(plan, graph, streams, where)
    graph = _folded(graph, where)
    for name, source in plan.inputs.items():
        if source.pixels is not None:
            _convert_pixels(graph, name, source.pixels)
        else:
            _narrow_ids(graph, name)
    output = parse_source(model.output)
    if not model.probabilities and output.name == plan.name:
        _refuse_probabilities(graph, output.field, model.head, where)
    if model.probabilities and output.name == plan.name:
        _logarithm(graph, output.field, where)
    name_nodes(graph)
    graph.ir_version = IR_VERSION
    del graph.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _refuse_outside(model: ModelProto, where: str) -> None:
    """Raise UserError where weights lie in another file: the graph's digest would not cover them."""
    if names := outside_files(model):
        name = where.rpartition("(")[2].rstrip(")")
        raise UserError(
            f"{where}: external data: its weights lie outside, in {', '.join(names)}; put them in: python -c "
            f"\"import onnx; onnx.save(onnx.load('{name}'), 'whole.onnx')\""
        )


def _refuse_other_domains(model: ModelProto, where: str) -> None:
    """Raise UserError naming the operators that are not ONNX's own: TensorRT knows none of them."""
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in ONNX_DOMAINS}
    )
    if foreign:
        raise UserError(
            f"{where}: operators beyond ai.onnx: {', '.join(foreign)}; export the graph without them (from the float "
            "model: neither quantised nor optimised by ONNX Runtime, without a classifier's ZipMap)"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _refuse_probabilities(model: ModelProto, name: str, head: str, where: str) -> None:
    """Raise UserError where the output already went through the head's own function: twice would spoil it."""
    makers = {output: node for node in model.graph.node for output in node.output}
    node = makers.get(name)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == {"softmax": "Softmax", "sigmoid": "Sigmoid"}.get(head):
        raise UserError(
            f"{where}: its output {name!r} comes out of {node.op_type}: these are probabilities; set "
            "onnx.probabilities = true, or export the logits"
        )


def _in_opset(graph: ModelProto, where: str) -> ModelProto:
    version = next((opset.version for opset in graph.opset_import if opset.domain in ("", "ai.onnx")), 0)
    if version == OPSET:
        return graph
    if version > OPSET:
        raise UserError(
            f"{where}: opset {version}; export it with opset {OPSET}, which every TensorRT from 10.3 on reads"
        )
    try:
        return version_converter.convert_version(graph, OPSET)
    except Exception as error:  # onnx raises RuntimeError and its own types
        raise UserError(
            f"{where}: cannot be raised from opset {version} to {OPSET} ({str(error).splitlines()[0]}); "
            f"export it with opset {OPSET}"
        ) from None


def _check_inputs(plan: OnnxStage, graph: ModelProto, where: str) -> None:
    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value.name for value in graph.graph.input if value.name not in constants]
    if set(inputs) != set(plan.inputs):
        raise UserError(f"{where}: the graph's inputs are {', '.join(inputs)}; `inputs` names {', '.join(plan.inputs)}")


def _fix_shapes(plan: OnnxStage, graph: ModelProto, streams: dict[str, StreamSpec], where: str) -> None:
    """Give every input its one shape: a camera's from its stream, batch 1 for what else is left open."""
    for value in graph.graph.input:
        source = plan.inputs[value.name]
        dims = value.type.tensor_type.shape.dim
        reads = parse_source(source.source)
        camera = streams.get(reads.name) if reads.kind == "stream" else None
        if source.pixels is not None:
            if not isinstance(camera, CameraStream):
                raise UserError(f"{where}: `pixels` is for pictures, but {source.source!r} is no camera's image")
            height, width = camera.height, camera.width
            fixed: tuple[int, ...] = (1, 3, height, width) if source.pixels.layout == "NCHW" else (1, height, width, 3)
            for dim, size in zip(dims, fixed, strict=False):
                if dim.HasField("dim_value") and dim.dim_value != size:
                    shape = [d.dim_value if d.HasField("dim_value") else "?" for d in dims]
                    raise UserError(
                        f"{where}: input {value.name!r} is {shape}, the stream {source.source!r} gives "
                        f"{list(fixed)}; set width, height and pixels.layout to what the graph takes"
                    )
        else:
            fixed = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims)
        del dims[:]
        for size_ in fixed:
            dims.add().dim_value = size_
    for value in graph.graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.graph.value_info[:]


def _folded(graph: ModelProto, where: str) -> ModelProto:
    """The same with constants computed and batch norms folded into convolutions, by ONNX Runtime's basic rules."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a family of unrelated types
            raise UserError(f"{where}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from None
        folded = onnx.load(path)
    for extra in [opset for opset in folded.opset_import if opset.domain not in ("", "ai.onnx")]:
        folded.opset_import.remove(extra)
    constants_to_initialisers(folded)
    inferred: ModelProto = onnx.shape_inference.infer_shapes(folded, strict_mode=True)
    return inferred


def _convert_pixels(model: ModelProto, name: str, pixels: PixelRecipe) -> None:
    """Let the graph take uint8 NHWC BGR, as it comes from the camera: one byte a value goes to the device."""
    graph = model.graph
    old = next(value for value in graph.input if value.name == name)
    shape = [dim.dim_value for dim in old.type.tensor_type.shape.dim]
    height, width = (shape[2], shape[3]) if pixels.layout == "NCHW" else (shape[1], shape[2])
    kind = old.type.tensor_type.elem_type
    # (x * scale - mean) / std = x * gain + offset: one multiplication and one sum.
    gain = np.array([pixels.scale / std for std in pixels.std], np.float32)
    offset = np.array([-mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)], np.float32)
    for key, values in (("gain", gain), ("offset", offset), ("order", np.array([2, 1, 0], np.int64))):
        graph.initializer.append(numpy_helper.from_array(values, f"{name}/{key}"))
    nodes = [helper.make_node("Cast", [f"{name}/bytes"], [f"{name}/float"], to=TensorProto.FLOAT)]
    last = f"{name}/float"
    if pixels.colour == "RGB":
        nodes.append(helper.make_node("Gather", [last, f"{name}/order"], [f"{name}/rgb"], axis=3))
        last = f"{name}/rgb"
    nodes.append(helper.make_node("Mul", [last, f"{name}/gain"], [f"{name}/scaled"]))
    nodes.append(helper.make_node("Add", [f"{name}/scaled", f"{name}/offset"], [f"{name}/standard"]))
    last = f"{name}/standard"
    if pixels.layout == "NCHW":
        nodes.append(helper.make_node("Transpose", [last], [f"{name}/planes"], perm=[0, 3, 1, 2]))
        last = f"{name}/planes"
    nodes.append(helper.make_node("Cast", [last], [name], to=kind))
    _put_in_front(
        model, old, nodes, helper.make_tensor_value_info(f"{name}/bytes", TensorProto.UINT8, [1, height, width, 3])
    )


def _narrow_ids(model: ModelProto, name: str) -> None:
    """Let a graph that wants 64-bit ids take the device's 32-bit ones."""
    old = next(value for value in model.graph.input if value.name == name)
    if old.type.tensor_type.elem_type != TensorProto.INT64:
        return
    shape = [dim.dim_value for dim in old.type.tensor_type.shape.dim]
    fresh = helper.make_tensor_value_info(f"{name}/narrow", TensorProto.INT32, shape)
    _put_in_front(model, old, [helper.make_node("Cast", [fresh.name], [name], to=TensorProto.INT64)], fresh)


def _put_in_front(
    model: ModelProto, old: onnx.ValueInfoProto, nodes: list[NodeProto], fresh: onnx.ValueInfoProto
) -> None:
    graph = model.graph
    index = list(graph.input).index(old)
    rest = list(graph.node)
    del graph.node[:]
    for number, node in enumerate(nodes):
        node.name = f"{old.name}/convert_{number}"
    graph.node.extend([*nodes, *rest])
    graph.input.insert(index, fresh)
    graph.input.remove(old)


def _logarithm(model: ModelProto, name: str, where: str) -> None:
    graph = model.graph
    value = next((output for output in graph.output if output.name == name), None)
    if value is None:
        raise UserError(
            f"{where}: onnx.output names {name!r}; the graph's outputs are {[output.name for output in graph.output]}"
        )
    for node in graph.node:
        node.output[:] = [f"{name}/probability" if one == name else one for one in node.output]
        node.input[:] = [f"{name}/probability" if one == name else one for one in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array(SMALLEST_PROBABILITY, np.float32), f"{name}/smallest"))
    graph.node.append(helper.make_node("Max", [f"{name}/probability", f"{name}/smallest"], [f"{name}/positive"]))
    graph.node.append(helper.make_node("Log", [f"{name}/positive"], [name]))


def _describe(plan: OnnxStage, graph: ModelProto, file: str) -> Stage:
    inputs = []
    sources = {name: source.source for name, source in plan.inputs.items()}
    for value in graph.graph.input:
        spec = tensor_spec(value)
        original = value.name.rpartition("/")[0] if value.name not in sources else value.name
        layout = "NHWC BGR 0..255" if spec.dtype == "uint8" else ""
        inputs.append(StageInput(spec.name, spec.dtype, spec.shape, sources[original], layout))
    return Stage(plan.name, tuple(inputs), tuple(tensor_spec(value) for value in graph.graph.output), {"fp32": file})


def _check_output(recipe: OnnxRecipe, stages: list[Stage]) -> None:
    outputs = {stage_output(stage.name, out.name): out.shape for stage in stages for out in stage.outputs}
    shape = outputs.get(parse_source(recipe.onnx.output))
    if shape is None:
        names = ", ".join(map(str, outputs))
        raise UserError(f"recipe {recipe.name}: onnx.output is {recipe.onnx.output!r}; there are {names}")
    if int(np.prod(shape)) != len(recipe.labels):
        raise UserError(
            f"recipe {recipe.name}: {recipe.onnx.output} has shape {list(shape)}, but there are {len(recipe.labels)} "
            "labels; list the labels in the order of the graph's outputs"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the recipe's paths") from None
