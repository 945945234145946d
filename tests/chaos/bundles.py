"""Versions of the shipped vehicle bundle to install: good ones, ones that fail on trial, and ones that are torn.

Each label carries its version: what decided cannot be taken for another one.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import MANIFEST, MODEL_SIGNATURE, encode_manifest, open_bundle, sign_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.heads.softmax import SoftmaxHead

PRECISION = "fp32"
SLOW_ROWS = 1800
"""Of a matrix that is multiplied by itself for each decision: a tenth of a second and more."""
NOISE_MEAN = 127.5
"""Of the pixels that a rehearsal makes up; what cameras show is darker or brighter."""

Change = Callable[[onnx.ModelProto], None]


def labelled(version: str) -> Callable[[str], str]:
    """What the bundle of that version calls a label."""
    return lambda label: f"{label}@{version}"


def write_bundle(folder: Path, version: str, secret: Path, change: tuple[str, Change] | None = None) -> Path:
    """The vehicle bundle as far as a CPU needs it, of that version, signed; `change`: a stage, and what to do to it."""
    shipped = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True)
    manifest, rename = shipped.manifest, labelled(version)
    stages = [msgspec.structs.replace(stage, files={PRECISION: stage.files[PRECISION]}) for stage in manifest.stages]
    kept = {stage.files[PRECISION] for stage in stages} | {name for name in manifest.files if "/" not in name}
    contents = {name: shipped.read(name) for name in kept}
    if change is not None:
        stage, alter = change
        name = next(one.files[PRECISION] for one in stages if one.name == stage)
        model = onnx.load_from_string(contents[name])
        alter(model)
        contents[name] = model.SerializeToString()
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    head, policy = manifest.head, manifest.decision
    assert isinstance(head, SoftmaxHead)
    versioned = msgspec.structs.replace(
        manifest,
        version=version,
        stages=tuple(stages),
        head=msgspec.structs.replace(head, labels=tuple(map(rename, head.labels))),
        decision=msgspec.structs.replace(
            policy, safe_label=rename(policy.safe_label), immediate=tuple(map(rename, policy.immediate))
        ),
        precision={"default": {stage.name: PRECISION for stage in stages}},
        files={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        engines=(),
    )
    (folder / MANIFEST).write_bytes(encode_manifest(versioned))
    sign_bundle(folder, secret)
    return folder


def slow(model: onnx.ModelProto) -> None:
    """The same answers, after a long while: too late for a camera."""
    output = _moved(model)
    wide = numpy_helper.from_array(np.array([SLOW_ROWS, SLOW_ROWS]), "chaos_wide")
    model.graph.initializer.extend([wide, numpy_helper.from_array(np.zeros((), np.float32), "chaos_nothing")])
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["chaos_before"], ["chaos_mean"], keepdims=0),
            helper.make_node("Expand", ["chaos_mean", "chaos_wide"], ["chaos_matrix"]),
            helper.make_node("MatMul", ["chaos_matrix", "chaos_matrix"], ["chaos_product"]),
            helper.make_node("ReduceMean", ["chaos_product"], ["chaos_long"], keepdims=0),
            helper.make_node("Mul", ["chaos_long", "chaos_nothing"], ["chaos_zero"]),
            helper.make_node("Add", ["chaos_before", "chaos_zero"], [output]),
        ]
    )


def failing(model: onnx.ModelProto) -> None:
    """Of a vision stage: numbers on made-up pixels, and none on what cameras show."""
    output = _moved(model)
    image = model.graph.input[0].name
    for name, value in (("chaos_noise", NOISE_MEAN), ("chaos_one", 1.0), ("chaos_nothing", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(()), name))
    model.graph.node.extend(
        [
            helper.make_node("Cast", [image], ["chaos_pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["chaos_pixels"], ["chaos_mean"], keepdims=0),
            helper.make_node("Sub", ["chaos_mean", "chaos_noise"], ["chaos_off"]),
            helper.make_node("Mul", ["chaos_off", "chaos_off"], ["chaos_square"]),
            helper.make_node("Sub", ["chaos_one", "chaos_square"], ["chaos_left"]),
            helper.make_node("Sqrt", ["chaos_left"], ["chaos_root"]),
            helper.make_node("Mul", ["chaos_root", "chaos_nothing"], ["chaos_zero"]),
            helper.make_node("Add", ["chaos_before", "chaos_zero"], [output]),
        ]
    )


def _moved(model: onnx.ModelProto) -> str:
    """The name of the first output, whose value is `chaos_before` now."""
    output: str = model.graph.output[0].name
    for node in model.graph.node:
        for names in (node.output, node.input):
            for at, name in enumerate(names):
                if name == output:
                    names[at] = "chaos_before"
    return output


def tear(folder: Path, chance: Random) -> tuple[Path, str]:
    """What is left of a whole bundle after an accident (or an attack), and which."""
    stages = sorted(folder.glob("stages/*"))
    victim = chance.choice(stages)
    data = victim.read_bytes()
    accidents: dict[str, Callable[[], Any]] = {
        "a file cut short": lambda: victim.write_bytes(data[: chance.randrange(len(data))]),
        "a file missing": victim.unlink,
        "a byte flipped": lambda: victim.write_bytes(_flipped(data, chance)),
        "not signed": (folder / MODEL_SIGNATURE).unlink,
        "a manifest cut short": lambda: _cut(folder / MANIFEST, chance),
        "a signature cut short": lambda: _cut(folder / MODEL_SIGNATURE, chance),
        "an archive cut short": lambda: None,
    }
    what = chance.choice(sorted(accidents))
    accidents[what]()
    if what != "an archive cut short":
        return folder, what
    packed = folder.with_suffix(".tar")
    with tarfile.open(packed, "w") as archive:
        archive.add(folder, ".")
    shutil.rmtree(folder)
    _cut(packed, chance)
    return packed, what


def _flipped(data: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _cut(path: Path, chance: Random) -> None:
    data = path.read_bytes()
    # Behind the last file of an archive are blocks of zeros, which may be missing.
    path.write_bytes(data[: chance.randrange(len(data) * 9 // 10)])
