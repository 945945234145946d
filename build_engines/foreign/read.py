"""An ONNX file as it lies on disk, with the weights that it keeps in other files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from edge_runtime.errors import UserError

MAX_BYTES = (1 << 31) - (1 << 20)
"""A graph and its weights; protobuf takes no message of 2 GiB (https://protobuf.dev/programming-guides/proto-limits/)."""
ONNX_DOMAINS = ("", "ai.onnx")


def read_model(path: Path) -> ModelProto:
    """The model at `path`, weights of other files inside, functions written out. Raises UserError (one line)."""
    model = _parsed(path)
    for tensor in _outside(model):
        _take_in(tensor, path)
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # onnx raises RuntimeError and its own types
            raise UserError(f"{path}: its functions cannot be written out ({first_line(error)})") from None
    return model


def files_of(path: Path) -> list[Path]:
    """The files that a model is made of: `path`, and those beside it that hold its weights. Raises UserError."""
    names = {_location(tensor, path) for tensor in _outside(_parsed(path))}
    return [path, *(path.parent / name for name in sorted(names))]


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def first_line(error: Exception) -> str:
    """What a library said, cut to a line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _parsed(path: Path) -> ModelProto:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: is larger than 2 GiB, which no ONNX file may be; check the path")
        return onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the recipe's paths") from None
    except DecodeError as error:
        raise UserError(f"{path}: is not a valid ONNX file ({error}); export it again") from None


def _outside(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]


def _location(tensor: TensorProto, path: Path) -> str:
    """The file, relative to the model's folder, that holds `tensor`. Raises UserError for one outside that folder."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    file = (path.parent / location).resolve()
    if not location or not file.is_relative_to(path.parent.resolve()):
        raise UserError(
            f"{path}: the weights of {tensor.name!r} lie outside its folder, in "
            f"{location or 'a file without a name'!r}; put the files beside the graph"
        )
    return location


def _take_in(tensor: TensorProto, path: Path) -> None:
    """Put the bytes of `tensor` into it."""
    location = _location(tensor, path)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = path.parent / location
    try:
        if not file.is_file():
            raise UserError(f"{path}: its weights lie in {location}, which is not there; copy it beside the graph")
        size = file.stat().st_size
        start, length = int(entries.get("offset", 0)), int(entries.get("length", size - int(entries.get("offset", 0))))
        if start < 0 or length < 0 or start + length > size:
            raise UserError(
                f"{path}: {location} has {size} bytes, {tensor.name!r} wants {start} to {start + length}; copy it again"
            )
        if size > MAX_BYTES:
            raise UserError(f"{path}: {location} is larger than 2 GiB, which no ONNX file can hold")
        with file.open("rb") as stream:
            stream.seek(start)
            tensor.raw_data = stream.read(length)
    except OSError as error:
        raise UserError(f"{path}: its weights in {location} cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(
            f"{path}: offset or length of {tensor.name!r} in {location} is no number; export it again"
        ) from None
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
