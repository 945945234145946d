"""A network in a file of one's own, ONNX or TorchScript: from what a stream gives to one vector of hidden values.

What comes out of the file may be a vector [1, w], the maps of a picture [1, w, h, w'], or hidden values of each place
[1, L, w] (of a patch, of a piece); the latter two become a vector in the graph itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
import onnxruntime
from msgspec import Struct
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.foreign import inputs, opset, proof, torchscript, trim
from build_engines.foreign.form import convert_inputs, first_of_batch, in_form, inferred, refuse_broken
from build_engines.foreign.inputs import Feed, role_of_text
from build_engines.foreign.operators import with_known_operators
from build_engines.foreign.read import read_model
from build_engines.foreign.recipe import OnnxInput, PixelRecipe
from build_engines.graphs import name_nodes, rename_made, serialised
from edge_runtime.errors import UserError
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.specs import CameraStream, TextStream

HIDDEN = "hidden"
"""What the graph calls the vector."""
Pool = Literal["mean", "grid", "first"]
Arrays = Sequence[NDArray[np.generic]]


class Plan(Struct, frozen=True):
    """How a file is read."""

    output: str
    """Which of its outputs; empty = the first that holds numbers."""
    pool: Pool
    """How many places become one: their mean (of those that a text's mask tells of), all one after the other, or the
    first."""
    pixels: PixelRecipe | None = None


@dataclass(frozen=True)
class NetworkFile:
    """The network as a graph, ready to run."""

    path: Path
    plan: Plan
    fields: tuple[str, ...]
    """The stream's fields that it reads, which are its inputs' names."""
    model: ModelProto = field(repr=False)
    """Inputs as a device gives them, one row; output `HIDDEN` float32 [1, w]."""
    width: int
    """w."""
    remarks: tuple[str, ...]
    """What was changed in it, in a line each."""
    _spec: CameraStream | TextStream
    _key: tuple[Path, str, bytes, _Same]
    """What it was loaded by."""
    _session: onnxruntime.InferenceSession = field(repr=False)

    @property
    def sha256(self) -> str:
        """Of the graph as it runs: of the file, and of all that was put around it."""
        return hashlib.sha256(serialised(self.model)).hexdigest()

    def __call__(self, rows: Arrays) -> NDArray[np.float32]:
        """`rows` [B, ...] of each field to hidden values [B, w], each row by itself. One thread."""
        read = {value.name for value in self.model.graph.input}
        made = [
            self._session.run(
                [HIDDEN],
                {
                    name: np.ascontiguousarray(values[row : row + 1])
                    for name, values in zip(self.fields, rows, strict=True)
                    if name in read
                },
            )[0]
            for row in range(len(rows[0]))
        ]
        return np.concatenate(made) if made else np.zeros((0, self.width), np.float32)

    def for_rows(self, rows: int) -> ModelProto:
        """The same for so many rows at once, as a stage of several cameras has them. Raises UserError where the file
        was exported for one."""
        return self.model if rows == 1 else _in_one_graph(self.path, self.plan, self._spec, rows)[0]

    def reference(self, rows: Arrays) -> NDArray[np.float32]:
        """What the file itself says of `rows` [B, ...]: as it lies on disk, its inputs made and its places joined by
        plain array operations, nothing rewritten."""
        return _untouched(*self._key)(dict(zip(self.fields, rows, strict=True)))


def load_network(path: Path, sha256: str, plan: Plan, spec: CameraStream | TextStream) -> NetworkFile:
    """The network in `path` for a stream of the form `spec`. Raises UserError.

    `sha256` of the file: while it is the same, what was read last is given again.
    """
    return _loaded(path, sha256, msgspec.json.encode([plan, spec]), _Same(plan, spec))


@lru_cache(maxsize=2)
def _untouched(path: Path, sha256: str, key: bytes, given: _Same) -> _Untouched:
    del sha256, key
    return _Untouched(path, given.plan, given.spec)


@dataclass(frozen=True)
class _Same:
    """Two arguments that a cache does not look at: their bytes stand beside them."""

    plan: Plan = field(compare=False)
    spec: CameraStream | TextStream = field(compare=False)


@lru_cache(maxsize=8)
def _loaded(path: Path, sha256: str, key: bytes, given: _Same) -> NetworkFile:
    plan, spec = given.plan, given.spec
    model, remarks = _in_one_graph(path, plan, spec, 1)
    session = onnxruntime.InferenceSession(
        serialised(model), sess_options=session_options(1), providers=["CPUExecutionProvider"]
    )
    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return NetworkFile(path, plan, _fields(spec), model, width, remarks, spec, (path, sha256, key, given), session)


def _fields(spec: CameraStream | TextStream) -> tuple[str, ...]:
    return ("image",) if isinstance(spec, CameraStream) else ("ids", "mask")


def _in_one_graph(
    path: Path, plan: Plan, spec: CameraStream | TextStream, rows: int
) -> tuple[ModelProto, tuple[str, ...]]:
    """The file with the device's conversions before it and the places joined behind it, and what was changed."""
    where, remarks = str(path), list[str]()
    opened = _opened(path, plan, spec, where)
    model, feeds = in_form(opened.model, opened.feeds(rows), where, remarks)
    output = model.graph.output[0].name
    if any(feed.batch > 1 for feed in feeds):
        first_of_batch(model, output)
    taken = convert_inputs(model, feeds)
    fields = {item.name: parse_field(item.source) for item in taken}
    _rename_inputs(model, fields)
    model = inferred(model, where)
    _join_places(model, output, plan.pool, spec, rows, where)
    order = _fields(spec)
    ordered = sorted(model.graph.input, key=lambda value: order.index(value.name))
    copies = [type(value).FromString(value.SerializeToString()) for value in ordered]
    del model.graph.input[:]
    model.graph.input.extend(copies)
    name_nodes(model)
    model.ir_version = opset.IR_VERSION
    model = inferred(model, where)
    onnx.checker.check_model(model, full_check=True)
    return model, tuple(remarks)


def parse_field(source: str | tuple[str, ...]) -> str:
    """The stream's field of a source, or of several of one field."""
    return (source if isinstance(source, str) else source[0]).rpartition(":")[2]


@dataclass(frozen=True)
class _Opened:
    """The file's network as ONNX, with nothing changed but what leads to other outputs."""

    model: ModelProto
    plans: Mapping[str, OnnxInput]
    spec: CameraStream | TextStream
    where: str

    def feeds(self, rows: int) -> Sequence[Feed]:
        """What each input is fed for `rows` rows at once."""
        plans = self.plans
        if rows > 1:
            plans = {
                name: msgspec.structs.replace(plan, source=(str(plan.source),) * rows) for name, plan in plans.items()
            }
        return inputs.plan_feeds(plans, self.model, {"given": self.spec}, {}, 1, self.where)


def _opened(path: Path, plan: Plan, spec: CameraStream | TextStream, where: str) -> _Opened:
    if torchscript.is_torchscript(path):
        module = torchscript.load_torchscript(path)
        original = torchscript.to_onnx(module, _examples(torchscript.arguments_of(module), plan, spec), where)
    else:
        original = read_model(path)
    trim.keep_outputs(original, [_chosen(original, plan.output, where)], where)
    original = with_known_operators(original, where)
    refuse_broken(original, where)
    constants = {tensor.name for tensor in original.graph.initializer}
    names = [value.name for value in original.graph.input if value.name not in constants]
    return _Opened(original, _plans(names, plan, spec, where), spec, where)


def _chosen(model: ModelProto, output: str, where: str) -> str:
    if output:
        return output
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    for value in model.graph.output:
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in floats:
            name: str = value.name
            return name
    raise UserError(f"{where}: none of its outputs holds numbers")


def _plans(names: Sequence[str], plan: Plan, spec: CameraStream | TextStream, where: str) -> dict[str, OnnxInput]:
    """What each of the file's inputs is fed."""
    if isinstance(spec, CameraStream):
        if len(names) != 1:
            raise UserError(f"{where}: takes {', '.join(names) or 'nothing'}; an encoder of pictures takes one picture")
        return {names[0]: OnnxInput(source="stream:given:image", pixels=plan.pixels)}
    roles = {name: role_of_text(name) for name in names}
    for role in ("ids", "mask"):
        if len([name for name in names if roles[name] == role]) > 1:
            raise UserError(f"{where}: several of its inputs look like a text's {role}: {', '.join(names)}")
    if "ids" not in roles.values():
        raise UserError(f"{where}: none of its inputs ({', '.join(names)}) is called like a text's pieces")
    places = tuple(float(place) for place in range(spec.max_tokens))
    fed = {
        "ids": OnnxInput(source="stream:given:ids"),
        "mask": OnnxInput(source="stream:given:mask"),
        "types": OnnxInput(constant=0.0),
        "places": OnnxInput(constant=places),
    }
    return {name: fed[role] for name, role in roles.items()}


def _examples(names: Sequence[str], plan: Plan, spec: CameraStream | TextStream) -> list[NDArray[np.generic]]:
    """Inputs to trace TorchScript with: pieces as int64, as Hugging Face's models take them, pictures as float32."""
    if isinstance(spec, TextStream):
        places = np.arange(spec.max_tokens, dtype=np.int64)[None]
        roles = [role_of_text(name) for name in names]
        return [places if role == "places" else np.ones((1, spec.max_tokens), np.int64) for role in roles]
    pixels = plan.pixels or PixelRecipe(layout="NHWC")
    planes = 1 if pixels.colour == "GREY" else 3
    shape = (planes, spec.height, spec.width) if pixels.layout == "NCHW" else (spec.height, spec.width, planes)
    return [np.zeros((1, *shape), np.uint8 if plan.pixels is None else np.float32)]


def _rename_inputs(model: ModelProto, fields: Mapping[str, str]) -> None:
    """Call the inputs as `fields` has them; what is made inside under such a name gets another."""
    for value in model.graph.input:
        rename_made(model, value.name, f"{value.name}//given")
    for name in fields.values():
        rename_made(model, name, f"{name}//made")
    for value in model.graph.input:
        rename_made(model, f"{value.name}//given", fields[value.name])
        value.name = fields[value.name]


def _join_places(
    model: ModelProto, output: str, pool: Pool, spec: CameraStream | TextStream, rows: int, where: str
) -> None:
    """Make one vector a row of what comes out, in place, and call it `HIDDEN`. Raises UserError for another shape."""
    graph = model.graph
    (value,) = graph.output
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    pieces = spec.max_tokens if isinstance(spec, TextStream) else 0
    is_text = pieces > 0
    masked = any(item.name == "mask" for item in graph.input)
    if shape[:1] != (rows,) or len(shape) not in ((2, 3) if is_text else (2, 3, 4)):
        raise UserError(
            f"{where}: its output {output!r} is {list(shape)}, neither a vector of hidden values nor one a place; "
            "name another output"
        )
    if is_text and len(shape) == 2 and not masked:
        raise UserError(f"{where}: takes no mask, so that padding would count; export it with attention_mask")
    if is_text and len(shape) == 3 and shape[1] != pieces:
        raise UserError(f"{where}: its output {output!r} has {shape[1]} places for {pieces} pieces")
    rename_made(model, output, f"{HIDDEN}/given")
    last = f"{HIDDEN}/given"
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        graph.node.append(helper.make_node("Cast", [last], [f"{HIDDEN}/float"], to=TensorProto.FLOAT))
        last = f"{HIDDEN}/float"
    width = shape[1] if len(shape) != 3 else shape[2]

    def constant(name: str, *values: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{HIDDEN}/{name}"))
        return f"{HIDDEN}/{name}"

    if len(shape) == 2:
        graph.node.append(helper.make_node("Identity", [last], [HIDDEN]))
    elif pool == "grid":
        width = int(np.prod(shape[1:]))
        graph.node.append(helper.make_node("Reshape", [last, constant("shape", rows, width)], [HIDDEN]))
    elif pool == "first":
        if len(shape) != 3:
            raise UserError(
                f"{where}: its output {output!r} is {list(shape)}; pool = 'first' is for [1, places, values]"
            )
        first = np.array(0, np.int64)
        graph.initializer.append(numpy_helper.from_array(first, f"{HIDDEN}/first"))
        graph.node.append(helper.make_node("Gather", [last, f"{HIDDEN}/first"], [HIDDEN], axis=1))
    elif is_text:
        if not masked:
            graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, shape[1])))
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), f"{HIDDEN}/one"))
        graph.node.extend(
            [
                helper.make_node("Unsqueeze", ["mask", constant("behind", 2)], [f"{HIDDEN}/valid"]),
                helper.make_node("Mul", [last, f"{HIDDEN}/valid"], [f"{HIDDEN}/read"]),
                helper.make_node("ReduceSum", [f"{HIDDEN}/read", constant("over", 1)], [f"{HIDDEN}/sum"], keepdims=0),
                helper.make_node("ReduceSum", ["mask", constant("pieces", 1)], [f"{HIDDEN}/many"], keepdims=1),
                helper.make_node("Max", [f"{HIDDEN}/many", f"{HIDDEN}/one"], [f"{HIDDEN}/count"]),
                helper.make_node("Div", [f"{HIDDEN}/sum", f"{HIDDEN}/count"], [HIDDEN]),
            ]
        )
    else:
        axes = constant("over", *((1,) if len(shape) == 3 else (2, 3)))
        graph.node.append(helper.make_node("ReduceMean", [last, axes], [HIDDEN], keepdims=0))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, (rows, width)))


class _Untouched:
    """The file as it lies on disk, asked by plain array operations."""

    def __init__(self, path: Path, plan: Plan, spec: CameraStream | TextStream) -> None:
        self._path, self._plan, self._spec = path, plan, spec
        opened = _opened(path, plan, spec, str(path))
        self._feeds = opened.feeds(1)
        self._types = {value.name: value.type.tensor_type.elem_type for value in opened.model.graph.input}
        self._module = torchscript.load_torchscript(path) if torchscript.is_torchscript(path) else None
        self._output = opened.model.graph.output[0].name
        if self._module is None:
            inputs.fix_shapes(opened.model, self._feeds)
            self._session = proof.open_session(opened.model, str(path), optimise=False)

    def __call__(self, rows: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        count = len(next(iter(rows.values())))
        parts = ({name: values[row : row + 1] for name, values in rows.items()} for row in range(count))
        return np.concatenate([self._one(part) for part in parts])

    def _one(self, row: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        fed = {feed.name: self._made(feed, row) for feed in self._feeds}
        if self._module is not None:
            said = torchscript.run(self._module, [fed[name] for name in torchscript.arguments_of(self._module)])
        else:
            said = proof.answers(self._session, fed)
        return self._joined(said[self._output][:1].astype(np.float32), row)

    def _made(self, feed: Feed, row: Mapping[str, NDArray[np.generic]]) -> NDArray[Any]:
        dtype = helper.tensor_dtype_to_np_dtype(self._types[feed.name])
        if feed.given is None:
            return np.resize(np.array(feed.plan.constant, dtype), feed.takes)
        values: NDArray[Any] = row[feed.plan.sources[0].field]
        pixels = feed.plan.pixels
        if pixels is not None:
            if pixels.colour == "RGB":
                values = values[..., ::-1]
            elif pixels.colour == "GREY":
                values = (values * np.array(inputs.GREY_WEIGHTS, np.float32)).sum(-1, keepdims=True)
            gain, offset = pixels.line()
            values = values.astype(np.float32) * gain + offset
            if dtype.kind in "iu":
                values = np.rint(values)
            if pixels.layout == "NCHW":
                values = values.transpose(0, 3, 1, 2)
        single = feed.one_by_one().takes
        return np.broadcast_to(values.astype(dtype).reshape(single), feed.takes)

    def _joined(self, given: NDArray[np.float32], row: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        if given.ndim == 2:
            return given
        if self._plan.pool == "grid":
            return given.reshape(1, -1)
        if self._plan.pool == "first":
            return given[:, 0]
        if given.ndim == 4:
            return np.asarray(given.mean((2, 3)))
        if isinstance(self._spec, TextStream):
            mask = row["mask"].astype(np.float32)[..., None]
            return np.asarray((given * mask).sum(1) / max(1.0, float(mask.sum())), np.float32)
        return np.asarray(given.mean(1))
