"""Put graphs, tokenizer and reports into a bundle directory with its manifest. Signing comes after."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnx

from edge_runtime.bundle import MANIFEST, Bundle, Manifest, encode_manifest, open_bundle, parse_manifest
from edge_runtime.errors import UserError
from edge_runtime.tensors import DType, TensorSpec

DTYPES: dict[int, DType] = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
}


def write_bundle(target: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write `files` (path in the bundle to bytes) and `manifest`, with their digests, to the directory `target`.

    A bundle that is there already is replaced whole. Raises UserError if something else is there, BundleError if the
    manifest contradicts itself.
    """
    if target.exists() and not (target / MANIFEST).is_file():
        raise UserError(f"{target} exists and is not a bundle; remove it or choose another folder")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    encoded = encode_manifest(msgspec.structs.replace(manifest, files=digests))
    parse_manifest(encoded, str(target))
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, data in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(data)
    (fresh / MANIFEST).write_bytes(encoded)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return open_bundle(target, allow_unsigned=True)


def built_with() -> dict[str, str]:
    """The versions of what a bundle is built with, for its manifest: they change what the same recipe gives."""
    packages = {name: version(name) for name in ("edge-runtime", "torch", "onnx", "onnxruntime", "numpy")}
    return {f"version.{name}": value for name, value in ({"python": platform.python_version()} | packages).items()}


def without_engines(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """The same bundle's contents without engines compiled ahead of time: devices build their own."""
    engines = {engine.file for engine in manifest.engines}
    remaining = {name: data for name, data in files.items() if name not in engines}
    return msgspec.structs.replace(manifest, engines=()), remaining


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, type and shape of a graph's input or output. Raises UserError for a type that no device takes."""
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        type_name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise UserError(
            f"graph input or output {value.name!r} is {type_name}; allowed are {', '.join(DTYPES.values())}"
        )
    return TensorSpec(value.name, DTYPES[kind.elem_type], tuple(dim.dim_value for dim in kind.shape.dim))
