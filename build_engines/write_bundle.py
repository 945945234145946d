"""Put the stages, the tokenizer and the reports into a bundle directory with its manifest. Signing comes after."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx

from build_engines.recipe import Recipe
from build_engines.train import TOKENIZER_FILE, TrainingRecord
from edge_runtime.bundle import (
    MANIFEST,
    SIGNATURE,
    TOKENIZER,
    Bundle,
    Head,
    Manifest,
    Stage,
    StageInput,
    encode_manifest,
    open_bundle,
    parse_manifest,
)
from edge_runtime.errors import UserError
from edge_runtime.tensors import DType, TensorSpec

DTYPES: dict[int, DType] = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
}
STAGES = ("vision", "text", "sensors", "fusion")
PRECISION = "fp32"


def write_bundle(recipe: Recipe, record: TrainingRecord, work: Path, target: Path) -> Bundle:
    """Write the bundle of `work`'s stages to the directory `target` (replaced if it is a bundle) and open it again."""
    if target.exists() and not (target / MANIFEST).is_file():
        raise UserError(f"{target} exists and is not a bundle; remove it or choose another --out")
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "stages").mkdir(parents=True)
    stages = []
    for name in STAGES:
        source = work / "stages" / f"{name}.{PRECISION}.onnx"
        if not source.is_file():
            continue
        relative = f"stages/{name}.{PRECISION}.onnx"
        shutil.copyfile(source, fresh / relative)
        stages.append(describe_stage(recipe, name, source, {PRECISION: relative}))
    if not stages:
        raise UserError(f"no stages in {work}; run the export stage first")
    if (work / TOKENIZER_FILE).is_file():
        shutil.copyfile(work / TOKENIZER_FILE, fresh / TOKENIZER)
    manifest = Manifest(
        format=1,
        name=recipe.name,
        version=recipe.version,
        head=Head("softmax", recipe.labels, "stage:fusion:logits"),
        trigger=recipe.trigger,
        streams=record.streams,
        stages=tuple(stages),
        decision=msgspec.structs.replace(recipe.decision, temperature=record.temperature),
        precision={"default": {stage.name: PRECISION for stage in stages}},
        files=file_digests(fresh),
        presence=recipe.modalities,
        description=recipe.description,
        licence=recipe.licence,
        attribution=recipe.attribution,
        training={
            "recipe_sha256": record.recipe_sha256,
            "data_sha256": record.data_sha256,
            "seed": str(record.seed),
        },
    )
    _write_manifest(fresh, manifest)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return open_bundle(target, allow_unsigned=True)


def add_reports(target: Path, reports: Mapping[str, bytes], figures: Mapping[str, float]) -> Bundle:
    """Put `reports` (file name to bytes) under report/ and `figures` into the manifest; any signature falls away."""
    manifest = parse_manifest((target / MANIFEST).read_bytes(), str(target))
    (target / "report").mkdir(exist_ok=True)
    for name, data in reports.items():
        (target / "report" / name).write_bytes(data)
    (target / SIGNATURE).unlink(missing_ok=True)
    _write_manifest(target, msgspec.structs.replace(manifest, files=file_digests(target), figures=dict(figures)))
    return open_bundle(target, allow_unsigned=True)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    parse_manifest(data, str(folder))
    (folder / MANIFEST).write_bytes(data)


def file_digests(folder: Path) -> dict[str, str]:
    """Path to sha256 of every file of a bundle but the manifest and the signature."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, SIGNATURE))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def describe_stage(recipe: Recipe, name: str, graph_file: Path, files: dict[str, str]) -> Stage:
    """The manifest's entry for one stage: names, types and shapes as the graph has them, and where inputs come from."""
    graph = onnx.load(graph_file).graph
    inputs = []
    for value in graph.input:
        spec = _spec(value)
        source = _source(recipe, name, value.name)
        inputs.append(StageInput(spec.name, spec.dtype, spec.shape, source, _layout(name, spec)))
    return Stage(name, tuple(inputs), tuple(_spec(value) for value in graph.output), files)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(value.name, DTYPES[kind.elem_type], tuple(dim.dim_value for dim in kind.shape.dim))


def _source(recipe: Recipe, stage: str, field: str) -> str | tuple[str, ...]:
    model = recipe.model
    if stage == "vision" and model.vision:
        sources = tuple(f"stream:{camera}:image" for camera in model.vision.streams)
        return sources[0] if len(sources) == 1 else sources
    if stage == "text" and model.text:
        return f"stream:{model.text.stream}:{field}"
    if stage == "sensors" and model.sensors:
        return f"stream:{model.sensors.stream}:{field}"
    return "presence" if field == "presence" else f"stage:{field}:features"


def _layout(stage: str, spec: TensorSpec) -> str:
    table = {
        ("vision", "image"): "NHWC BGR 0..255",
        ("text", "ids"): "NL SentencePiece ids, 0 beyond the end",
        ("text", "mask"): "NL 1 = a piece",
        ("sensors", "window"): "NTC standardised, 0 where missing",
        ("sensors", "mask"): "NTC 1 = measured",
        ("fusion", "presence"): "1 = the stream is present",
    }
    return table.get((stage, spec.name), "")
