"""Put graphs, tokenizer and reports into a bundle directory with its manifest. Signing comes after."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from build_engines.recipe import AnyRecipe
from edge_runtime.bundle import MANIFEST, Bundle, Manifest, Stage, encode_manifest, open_bundle, parse_manifest
from edge_runtime.errors import UserError


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


def write_exact(
    target: Path,
    recipe: AnyRecipe,
    files: Mapping[str, bytes],
    stages: Sequence[Stage],
    training: Mapping[str, str],
    **more: Any,
) -> Bundle:
    """Write the FP32 bundle of `recipe` that calibration and all after it start from; `files` hold the graphs of
    `stages`. `training`: digests of what it is made of. `more`: fields of the manifest that are not as the recipe says.

    Raises what `write_bundle` raises.
    """
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
        description=recipe.description,
        licence=recipe.licence,
        attribution=recipe.attribution,
        training=dict(training) | built_with(),
    )
    return write_bundle(target, msgspec.structs.replace(manifest, **more), files)


def built_with() -> dict[str, str]:
    """The versions of what a bundle is built with, for its manifest: they change what the same recipe gives."""
    packages = {name: version(name) for name in ("edge-runtime", "torch", "onnx", "onnxruntime", "numpy")}
    return {f"version.{name}": value for name, value in ({"python": platform.python_version()} | packages).items()}


def without_engines(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """The same bundle's contents without engines compiled ahead of time: devices build their own."""
    engines = {engine.file for engine in manifest.engines}
    remaining = {name: data for name, data in files.items() if name not in engines}
    return msgspec.structs.replace(manifest, engines=()), remaining
