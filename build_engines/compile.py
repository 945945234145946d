"""The stage `compile`: engines for named GPUs, ahead of time and without one, and the checks of what came out."""

from __future__ import annotations

import importlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import track

from build_engines.graphs import weight_bytes
from build_engines.job import Job
from build_engines.plan import read_plan
from build_engines.quantise import quantised_pairs
from edge_runtime.bundle import Bundle, EngineFile
from edge_runtime.errors import GateRefused, UserError

ENGINES = "engines.json"
HARMLESS = (
    # With half scales: the library keeps them wider than they were given.
    "scales to fp32",
    # Shapes are fixed here; the note is about inputs that vary.
    "Make sure input",
)
MAX_OVERHEAD_BYTES = 24 << 20
"""Kernels' text beside the weights; more than this has not been seen and would be a mistake."""


@dataclass(frozen=True)
class Compiler:
    """The library that builds engines."""

    module: Any
    flavour: str
    version: str


@dataclass(frozen=True)
class Built:
    """One engine and how it came about."""

    plan: bytes
    seconds: float
    dequantisers: int
    """Dequantise layers that the parser kept."""
    warnings: tuple[str, ...]


def find_compiler() -> Compiler | None:
    """The library that compiles without a GPU, if it is installed."""
    try:
        module = importlib.import_module("tensorrt_rtx")
    except (ImportError, OSError):
        return None
    return Compiler(module, "tensorrt_rtx", str(module.__version__))


def _logger(trt: Any) -> Any:
    class Kept(trt.ILogger):  # type: ignore[misc]
        """Keeps warnings and errors: a build that fails says why only here."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.lines.append(message.strip())

    return Kept()


def build_engine(compiler: Compiler, model: bytes, compute: tuple[str, ...], workspace_mb: int) -> Built:
    """Compile ONNX bytes for GPUs of the given compute capabilities. Raises GateRefused with the library's reason."""
    trt = compiler.module
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise GateRefused(f"compile: {compiler.flavour} {compiler.version} cannot parse the graph: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.num_compute_capabilities = len(compute)
    for index, one in enumerate(compute):
        name = "SM" + one.replace(".", "")
        if not hasattr(trt.ComputeCapability, name):
            known = ", ".join(sorted(key for key in dir(trt.ComputeCapability) if key.startswith("SM")))
            raise UserError(f"compile.targets: {one} is not known to {compiler.flavour}; it knows {known}")
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    start = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GateRefused(
            f"compile: {compiler.flavour} builds no engine: {'; '.join(logger.lines[-3:]) or 'no reason'}"
        )
    seconds = time.monotonic() - start
    return Built(bytes(plan), seconds, kinds.count(trt.LayerType.DEQUANTIZE), tuple(logger.lines))


def check_built(built: Built, model: bytes, where: str) -> None:
    """Raise GateRefused unless quantisation was kept, the size is plausible and nothing unusual was said."""
    from onnx import ModelProto

    graph = ModelProto.FromString(model)
    expected = quantised_pairs(graph)
    if built.dequantisers < expected:
        raise GateRefused(f"compile: {where}: {built.dequantisers} of {expected} dequantise layers survived parsing")
    weights = weight_bytes(graph)
    if not weights // 4 <= len(built.plan) <= 4 * weights + MAX_OVERHEAD_BYTES:
        raise GateRefused(f"compile: {where}: the engine has {len(built.plan)} bytes for {weights} bytes of weights")
    unusual = [line for line in built.warnings if not any(known in line for known in HARMLESS)]
    if unusual:
        raise GateRefused(f"compile: {where}: unexpected warning: {unusual[0]}")


def compile_engines(job: Job, bundle: Bundle, folder: Path) -> None:
    """Engines of every stage and reduced precision (FP32 where the plan has it) for all targets, into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    compiler = find_compiler()
    made: list[EngineFile] = []
    targets = job.recipe.compile.targets
    if compiler is None:
        job.console.print("compile: no TensorRT here; devices will build their own engines from the bundle's graphs")
    elif targets:
        plan = read_plan(job.work / "quantised").plan
        work = [(stage, precision) for stage in bundle.manifest.stages for precision in ("fp16", "int8", "fp32")]
        for stage, precision in track(work, "compile", console=job.console, transient=True):
            path = job.work / "quantised" / f"{stage.name}.{precision}.onnx"
            if precision == "fp32" and plan[stage.name] != "fp32":
                continue
            if precision != "fp32" and not path.is_file():
                continue
            model = bundle.read(stage.files["fp32"]) if precision == "fp32" else path.read_bytes()
            built = build_engine(compiler, model, targets, job.recipe.compile.workspace_mb)
            check_built(built, model, f"{stage.name} in {precision}")
            name = f"{stage.name}.{precision}.engine"
            (folder / name).write_bytes(built.plan)
            digest = _sha256(model)
            made.append(
                EngineFile(stage.name, precision, "tensorrt_rtx", compiler.version, targets, digest, f"engines/{name}")
            )
            job.console.print(
                f"compile: {stage.name} {precision} for {', '.join(targets)}: {len(built.plan) / 1e6:.1f} MB in "
                f"{built.seconds:.1f} s",
                highlight=False,
            )
    (folder / ENGINES).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
