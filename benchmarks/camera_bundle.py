"""A bundle with more cameras, made of one with a single camera: every picture has a run of the encoder to itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper

from edge_runtime.bundle import MANIFEST, Bundle, Manifest, Stage, StageInput, encode_manifest
from edge_runtime.errors import UserError
from edge_runtime.streams import CameraStream
from edge_runtime.tensor_source import stage_output
from edge_runtime.tensors import TensorSpec

MEAN = "cameras"
"""The stage that takes the mean of what the encoders give."""


def write_camera_bundle(bundle: Bundle, count: int, target: Path) -> tuple[str, ...]:
    """Write to `target` what decides as `bundle` does on the mean of `count` cameras; the cameras' streams.

    The first is the bundle's own, which goes on calling for decisions. Raises UserError where that is no camera, or
    not one encoder with one output reads it.
    """
    manifest = bundle.manifest
    first = manifest.trigger
    readers = [stage for stage in manifest.stages if first in stage.streams]
    if not isinstance(manifest.streams[first], CameraStream) or len(readers) != 1 or len(readers[0].outputs) != 1:
        raise UserError(f"cameras: {manifest.name} does not decide by one camera that one stage reads; choose another")
    cameras = (first, *(f"camera.{number}" for number in range(2, count + 1)))
    plan = manifest.precision["default"]
    files = {stage.files[plan[stage.name]]: b"" for stage in manifest.stages}
    files |= {name: b"" for name in manifest.files if not name.startswith(("stages/", "engines/", "report/"))}
    files = {name: bundle.read(name) for name in files}
    several = manifest if count == 1 else _with_cameras(manifest, readers[0], cameras)
    for stage in several.stages:
        if stage.name == MEAN:
            files[stage.files["fp32"]] = _mean_graph(count, readers[0].outputs[0].shape[-1])
    several = replace(
        several,
        engines=(),
        precision={"default": several.precision["default"]},
        stages=tuple(
            replace(stage, files={level: name for level, name in stage.files.items() if name in files})
            for stage in several.stages
        ),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    (target / MANIFEST).write_bytes(encode_manifest(several))
    return cameras


def _with_cameras(manifest: Manifest, encoder: Stage, cameras: tuple[str, ...]) -> Manifest:
    first, *others = cameras
    features = encoder.outputs[0]
    own = str(stage_output(encoder.name, features.name))
    copies = [_reading(replace(encoder, name=f"{encoder.name}.{name}"), f":{first}:", f":{name}:") for name in others]
    width = features.shape[-1]
    stacked = (own, *(str(stage_output(stage.name, features.name)) for stage in copies))
    inputs = (StageInput("features", "float32", (len(cameras), width), stacked),)
    mean = Stage(MEAN, inputs, (TensorSpec("mean", "float32", (1, width)),), {"fp32": f"stages/{MEAN}.fp32.onnx"})
    at = manifest.stages.index(encoder) + 1
    taken = str(stage_output(MEAN, "mean"))
    later = [_reading(stage, own, taken) for stage in manifest.stages[at:]]
    plan = manifest.precision["default"]
    return replace(
        manifest,
        streams=manifest.streams | dict.fromkeys(others, manifest.streams[first]),
        stages=(*manifest.stages[:at], *copies, mean, *later),
        precision={"default": plan | {stage.name: plan[encoder.name] for stage in copies} | {MEAN: "fp32"}},
    )


def _reading(stage: Stage, earlier: str, now: str) -> Stage:
    """`stage`, which reads `now` where it read `earlier`."""

    def source(item: StageInput) -> str | tuple[str, ...]:
        if isinstance(item.source, str):
            return item.source.replace(earlier, now)
        return tuple(one.replace(earlier, now) for one in item.source)

    return replace(stage, inputs=tuple(replace(item, source=source(item)) for item in stage.inputs))


def _mean_graph(rows: int, width: int) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=1)],
        MEAN,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
