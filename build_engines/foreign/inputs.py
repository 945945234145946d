"""What a graph's input takes, what the device gives, and the operators that make the one of the other.

The device gives pictures as uint8 [n, height, width, 3] BGR, readings as float32 [1, T, C], pieces as int32 and their
mask as float32 [1, L], and what other stages made; graphs want channels first, one channel, half floats, flat vectors,
64-bit ids. All of it happens inside the adopted graph, so that the device and the gate run the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from build_engines.foreign.branches import decide_branches
from build_engines.foreign.recipe import OnnxInput, PixelRecipe
from build_engines.graphs import DTYPES
from edge_runtime.bundle import stream_tensor_spec
from edge_runtime.errors import UserError
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec
from edge_runtime.tensor_source import TensorSource
from edge_runtime.tensors import TensorSpec

ONNX_TYPES = {dtype: kind for kind, dtype in DTYPES.items()}
GREY_WEIGHTS = (0.114, 0.587, 0.299)
"""Of blue, green and red (ITU-R BT.601, as OpenCV and libjpeg weigh them)."""


def role_of_text(name: str) -> str:
    """What an input of integers called `name` takes of a text: `ids`, `mask`, `types` or `places`."""
    lower = name.lower()
    if "position" in lower:
        return "places"
    if "type" in lower or "segment" in lower:
        return "types"
    return "mask" if "mask" in lower else "ids"


@dataclass(frozen=True)
class Feed:
    """One input of an adopted graph."""

    name: str
    """As the graph calls it."""
    plan: OnnxInput
    given: TensorSpec | None
    """What the device gives, all sources along the first axis; None for a constant."""
    picked: tuple[int, ...]
    """Columns of the last axis that are used, in this order; empty = all as they are."""
    takes: tuple[int, ...]
    """The shape that the graph is given."""

    @property
    def batch(self) -> int:
        """How many of what the device gives at once the graph insists on."""
        if self.given is None:
            return 1
        if self.plan.pixels is not None:
            return self.takes[0] if len(self.takes) == 4 and self.given.shape[0] == 1 else 1
        used = (*self.given.shape[:-1], len(self.picked)) if self.picked else self.given.shape
        return int(np.prod(self.takes)) // int(np.prod(used))

    def one_by_one(self) -> Feed:
        """The same without a fixed batch."""
        return replace(self, takes=(self.takes[0] // self.batch, *self.takes[1:])) if self.batch > 1 else self


def plan_feeds(
    inputs: Mapping[str, OnnxInput],
    model: ModelProto,
    streams: Mapping[str, StreamSpec],
    outputs: Mapping[TensorSource, TensorSpec],
    presence: int,
    where: str,
) -> list[Feed]:
    """Every input of `model` with its one shape, in the graph's order; `outputs` are those of earlier stages,
    `presence` how many streams its mask has. Raises UserError where the two sides cannot meet.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    names = [value.name for value in values]
    if unknown := sorted(set(inputs) - set(names)):
        read = ", ".join(names)
        raise UserError(f"{where}: `inputs` names {unknown[0]!r}; the graph's inputs are {read}")
    if missing := [name for name in names if name not in inputs]:
        raise UserError(
            f"{where}: the graph's inputs are {', '.join(names)}; `inputs` lacks {', '.join(missing)}: give a source, "
            "or `constant = 0` for what is always the same"
        )
    return [_feed(value, inputs[value.name], streams, outputs, presence, where) for value in values]


def _feed(
    value: ValueInfoProto,
    plan: OnnxInput,
    streams: Mapping[str, StreamSpec],
    outputs: Mapping[TensorSource, TensorSpec],
    presence: int,
    where: str,
) -> Feed:
    if not value.type.HasField("tensor_type"):
        raise UserError(f"{where}: input {value.name!r} is no tensor but a sequence or an optional; export it without")
    dims = dims_of(value)
    if plan.constant is not None:
        return Feed(value.name, plan, None, (), _constant_shape(value, dims, plan, where))
    place = f"{where}: input {value.name!r}"
    given = _given(plan, streams, outputs, presence, place)
    picked = _picked(plan, streams, place) if plan.channels else ()
    if plan.pixels is not None:
        return Feed(value.name, plan, given, (), _picture_shape(dims, plan, plan.pixels, streams, given, place))
    if value.type.tensor_type.elem_type != TensorProto.UINT8 and any(_is_picture(one, streams) for one in plan.sources):
        raise UserError(
            f"{place}: takes numbers where {plan.source} gives a picture's bytes [rows, height, width, BGR]; say how "
            'it was trained: pixels = { layout = "NCHW", colour = "RGB", normalisation = "imagenet" }, for example'
        )
    used = (*given.shape[:-1], len(picked)) if picked else given.shape
    return Feed(value.name, plan, given, picked, _plain_shape(dims, used, given.dtype, place))


def _is_picture(source: TensorSource, streams: Mapping[str, StreamSpec]) -> bool:
    return source.kind == "stream" and isinstance(streams.get(source.name), CameraStream)


def dims_of(value: ValueInfoProto) -> tuple[int | None, ...]:
    """The dimensions of a tensor; None where one is left open."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def shown(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in dims) + "]"


def _constant_shape(
    value: ValueInfoProto, dims: tuple[int | None, ...], plan: OnnxInput, where: str
) -> tuple[int, ...]:
    shape = tuple(size or 1 for size in dims)
    if not isinstance(plan.constant, (int, float)):
        count = len(plan.constant or ())
        if None in dims and count % max(1, int(np.prod([size for size in dims if size]))) == 0:
            # The last open dimension takes what the values fill.
            last = max(index for index, size in enumerate(dims) if size is None)
            rest = int(np.prod([size for index, size in enumerate(shape) if index != last]))
            shape = tuple(count // rest if index == last else size for index, size in enumerate(shape))
        if int(np.prod(shape)) != count:
            raise UserError(f"{where}: input {value.name!r} is {shown(dims)}; `constant` has {count} values")
    return shape


def _given(
    plan: OnnxInput,
    streams: Mapping[str, StreamSpec],
    outputs: Mapping[TensorSource, TensorSpec],
    presence: int,
    where: str,
) -> TensorSpec:
    specs = []
    for source in plan.sources:
        if source.kind == "presence":
            spec: TensorSpec | None = TensorSpec("presence", "float32", (1, presence))
        elif source.kind == "stage":
            spec = outputs.get(source)
        else:
            spec = stream_tensor_spec(streams, source)
        if spec is None:
            there = ", ".join(map(str, outputs)) or "none"
            raise UserError(
                f"{where}: there is no {source}; the streams are {', '.join(streams)}, earlier stages' outputs {there}"
            )
        specs.append(spec)
    if len({(spec.dtype, spec.shape[1:]) for spec in specs}) > 1:
        raise UserError(f"{where}: its sources differ: {', '.join(f'{s.dtype}{list(s.shape)}' for s in specs)}")
    rows = sum(spec.shape[0] for spec in specs)
    first = specs[0]
    return TensorSpec(first.name, first.dtype, (rows, *first.shape[1:]))


def _picked(plan: OnnxInput, streams: Mapping[str, StreamSpec], where: str) -> tuple[int, ...]:
    """The columns of the channels that are named."""
    source, *others = plan.sources
    spec = streams.get(source.name) if source.kind == "stream" else None
    if others or not isinstance(spec, SensorStream):
        raise UserError(f"{where}: `channels` is for one stream of sensors")
    known = [channel.name for channel in spec.channels]
    if unknown := [name for name in plan.channels if name not in known]:
        raise UserError(f"{where}: `channels` names {unknown[0]!r}; the stream {source.name!r} has {', '.join(known)}")
    return tuple(known.index(name) for name in plan.channels)


def _picture_shape(
    dims: tuple[int | None, ...],
    plan: OnnxInput,
    pixels: PixelRecipe,
    streams: Mapping[str, StreamSpec],
    given: TensorSpec,
    where: str,
) -> tuple[int, ...]:
    sources = plan.sources
    if not all(source.kind == "stream" and isinstance(streams[source.name], CameraStream) for source in sources):
        raise UserError(f"{where}: `pixels` is for pictures, but {plan.source!r} is no camera's image")
    rows, height, width, _ = given.shape
    planes = 1 if pixels.colour == "GREY" else 3
    shape: tuple[int, ...] = (planes, height, width) if pixels.layout == "NCHW" else (height, width, planes)
    if len(dims) == 4 and rows > 1 and pixels.layout == "NCHW" and dims[1] == rows * planes:
        shape = (1, rows * planes, height, width)  # several pictures' planes one after the other
    elif len(dims) == 4:
        shape = (dims[0] if dims[0] and rows == 1 else rows, *shape)
    elif len(dims) == 5 and dims[0] in (None, 1):
        shape = (1, rows, *shape)
    elif len(dims) == 2 and planes == 1:
        shape = (height, width)
    if len(dims) != len(shape) or any(size not in (None, fixed) for size, fixed in zip(dims, shape, strict=True)):
        raise UserError(
            f"{where} is {shown(dims)}, the stream {str(sources[0])!r} gives {list(shape)}; set width, "
            "height, pixels.layout and pixels.colour to what the graph takes"
        )
    return shape


def _plain_shape(dims: tuple[int | None, ...], used: tuple[int, ...], dtype: str, where: str) -> tuple[int, ...]:
    """The shape in which the graph takes what is `used`: its own, two axes changed over, or with as many values."""
    for shape in (used, changed_over(used)):
        if _meets(dims, shape):
            return shape
        # A batch that the graph has fixed is served one by one.
        if len(dims) == len(shape) and dims[0] and _meets(dims[1:], shape[1:]):
            return (dims[0], *shape[1:])
    count = int(np.prod(used))
    open_places = [index for index, size in enumerate(dims) if size is None]
    known = int(np.prod([size for size in dims if size]))
    flat = [size or 1 for size in dims]
    if open_places and count % known == 0:
        flat[open_places[-1]] = count // known
    if int(np.prod(flat)) == count or (len(flat) == 2 and flat[1] == count):
        return tuple(flat)
    raise UserError(
        f"{where} is {shown(dims)}, its source gives {dtype}{list(used)}; let the stream give as many values as the "
        "graph takes (`window`, `channels`, `max_tokens`)"
    )


def changed_over(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[1, T, C] as [1, C, T]; what has other axes stays."""
    return (shape[0], shape[2], shape[1]) if len(shape) == 3 else shape


def _meets(dims: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(size in (None, own) for size, own in zip(dims, shape, strict=True))


def fix_shapes(model: ModelProto, feeds: Sequence[Feed]) -> None:
    """Give every input its one shape, in place; constants become part of the graph, and branches that they decide go.
    What follows is inferred anew.
    """
    graph = model.graph
    by_name = {feed.name: feed for feed in feeds}
    for value in [value for value in graph.input if value.name in by_name]:
        feed = by_name[value.name]
        if feed.given is None:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            filled = np.resize(np.array(feed.plan.constant, dtype), feed.takes)
            graph.initializer.append(numpy_helper.from_array(filled, value.name))
            graph.input.remove(value)
            continue
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in feed.takes:
            dims.add().dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    decide_branches(model)


def convert_input(model: ModelProto, feed: Feed) -> TensorSpec:
    """Put in front of `feed`'s input what makes it of what the device gives; the input that is left."""
    assert feed.given is not None
    graph = model.graph
    old = next(value for value in graph.input if value.name == feed.name)
    wanted = old.type.tensor_type.elem_type
    chain = _Chain(graph, feed.name, feed.given.shape, ONNX_TYPES[feed.given.dtype])
    if feed.plan.pixels is not None:
        _convert_pixels(chain, feed.plan.pixels, wanted)
    elif feed.picked and feed.picked != tuple(range(feed.given.shape[-1])):
        chain.add(
            "Gather",
            np.array(feed.picked, np.int64),
            shape=(*chain.shape[:-1], len(feed.picked)),
            axis=len(chain.shape) - 1,
        )
    one = feed.one_by_one().takes
    if feed.plan.pixels is None and chain.shape != one == changed_over(chain.shape):
        chain.add("Transpose", shape=one, perm=[0, 2, 1])
    if chain.shape != one:
        chain.add("Reshape", np.array(one, np.int64), shape=one)
    if feed.batch > 1:
        chain.add("Expand", np.array(feed.takes, np.int64), shape=feed.takes)
    if chain.type != wanted:
        chain.cast(wanted)
    if not chain.nodes:
        return TensorSpec(feed.name, feed.given.dtype, feed.given.shape)
    fresh = helper.make_tensor_value_info(chain.first, ONNX_TYPES[feed.given.dtype], feed.given.shape)
    chain.nodes[-1].output[0] = feed.name
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*chain.nodes, *rest])
    graph.input.insert(list(graph.input).index(old), fresh)
    graph.input.remove(old)
    return TensorSpec(chain.first, feed.given.dtype, feed.given.shape)


class _Chain:
    """Operators one after the other, from what the device gives to what the graph takes."""

    def __init__(self, graph: GraphProto, name: str, shape: tuple[int, ...], type: int) -> None:
        self.first = f"{name}/given"
        self.nodes: list[NodeProto] = []
        self.shape, self.type = shape, type
        self._graph, self._name = graph, name

    def add(
        self, operator: str, *constants: NDArray[np.generic], shape: tuple[int, ...] | None = None, **settings: Any
    ) -> None:
        """One more operator, with `constants` behind what the last one made."""
        number = len(self.nodes)
        names = [f"{self._name}/constant_{number}_{index}" for index in range(len(constants))]
        for name, values in zip(names, constants, strict=True):
            self._graph.initializer.append(numpy_helper.from_array(values, name))
        last = self.nodes[-1].output[0] if self.nodes else self.first
        made = [f"{self._name}/made_{number}"]
        self.nodes.append(
            helper.make_node(operator, [last, *names], made, name=f"{self._name}/convert_{number}", **settings)
        )
        self.shape = shape or self.shape

    def cast(self, type: int) -> None:
        self.add("Cast", to=type)
        self.type = type


def _convert_pixels(chain: _Chain, pixels: PixelRecipe, wanted: int) -> None:
    """uint8 [n, h, w, 3] BGR to colour, scale and order of axes; the type is `wanted` or float32."""
    gain, offset = pixels.line()
    plain = pixels.colour != "GREY" and np.all(gain == 1) and np.all(offset == 0)
    if not (plain and wanted == TensorProto.UINT8):
        chain.cast(TensorProto.FLOAT)
    rows, height, width, _ = chain.shape
    if pixels.colour == "RGB":
        chain.add("Gather", np.array([2, 1, 0], np.int64), axis=3)
    elif pixels.colour == "GREY":
        chain.add("Mul", np.array(GREY_WEIGHTS, np.float32))
        chain.add("ReduceSum", np.array([3], np.int64), shape=(rows, height, width, 1), keepdims=1)
    if not plain:
        chain.add("Mul", gain)
        chain.add("Add", offset)
        if wanted not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            chain.add("Round")
    if pixels.layout == "NCHW":
        planes = chain.shape[3]
        chain.add("Transpose", shape=(rows, planes, height, width), perm=[0, 3, 1, 2])
