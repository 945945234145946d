"""TensorRT of whatever flavour is found: on a GPU, engines built, compared and timed; without one, up to loading them.

    python -m benchmarks.gpu.tensorrt --out DIR [--bundle B]

Every stage in every precision of the bundle, through both ways to CUDA: agreement with ONNX Runtime, time on the
device, time added around it, steadiness, and how long opening takes with an empty and a warm engine cache.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.first_decision import first_decision
from benchmarks.results import write_plot
from benchmarks.workload import percentile
from edge_runtime.bundle import TOKENIZER, Bundle, Stage, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.cuda import CudaChoice, open_cuda
from edge_runtime.errors import EngineError, UserError
from edge_runtime.infer import ON_CPU
from edge_runtime.infer.feed import feed
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.infer.tensorrt.backend import TensorRTBackend
from edge_runtime.infer.tensorrt.build import build_engine, graph_facts, known_compute, problems
from edge_runtime.infer.tensorrt.cache import EngineCache, EngineKey
from edge_runtime.infer.tensorrt.library import Library, find_library, load_library
from edge_runtime.messages import Tensor, Tensors
from edge_runtime.specs import CLIP_SIGMA
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream, kind_of
from edge_runtime.tensor_source import PRESENCE, TensorSource, stage_output, stream_tensor
from edge_runtime.tokenizer import SentencePieceTokenizer

TARGETS = ("8.6", "8.9", "12.0")
CUDA: tuple[CudaChoice, ...] = ("cuda-python", "pycuda")
MOMENTS = 16
"""Different inputs that agreement is measured on."""
HOLD_ADDED = 0.25
"""Time outside the engine, at p50, over the engine's own."""
HOLD_STEADY = 1.05
"""p99 over p50 of replayed CUDA graphs."""
HOLD_FIRST_S = 3.0
"""First decision after start with a warm engine cache."""


@dataclass(frozen=True)
class Ahead:
    """One stage compiled ahead of time for one target."""

    stage: str
    precision: str
    compute: str
    seconds: float
    plan_bytes: int
    weight_bytes: int
    layers: int
    quantise_layers: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class OnDevice:
    """One stage on this machine's GPU. Errors are the largest over MOMENTS inputs, relative to the largest output."""

    stage: str
    precision: str
    cuda: str
    launch: str
    cold_s: float
    """Opening and warming up with an empty engine cache (builds)."""
    warm_s: float
    """The same with what the first time left there."""
    error_abs: float
    error_rel: float
    """Against the same graph in ONNX Runtime."""
    error_fp32: float
    """Against the FP32 graph, relative: what the precision costs."""
    engine_ms: float
    """Median on the device, by CUDA events, copies left out."""
    run_ms: float
    """Median from arrays to arrays."""
    run_p99_ms: float

    @property
    def added(self) -> float:
        """Time outside the engine over time in it, at the median."""
        return (self.run_ms - self.engine_ms) / self.engine_ms

    @property
    def steady(self) -> float:
        return self.run_p99_ms / self.run_ms


@click.command()
@click.option("--bundle", default="shipped:home", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--frames", default=500, show_default=True, type=click.IntRange(20), help="Runs that are timed, each.")
def main(bundle: str, out: Path, frames: int) -> None:
    """Engines of every stage and precision, on the GPU if there is one, else as far as it goes without."""
    findings = Findings(out, "tensorrt")
    opened = open_bundle(bundle_path(bundle), allow_unsigned=True)
    console = Console()
    figures: dict[str, Any] = {"bundle": bundle}
    library = find_library()
    if library is None:
        findings.miss("no TensorRT loads here: nothing is compiled")
    else:
        findings.figure("library", str(library))
        ahead = ahead_of_time(library, opened, console)
        if ahead:
            console.print(_ahead_table(str(library), ahead))
            findings.figure("ahead of time", [asdict(row) for row in ahead])
            problem = [f"{one.stage} {one.precision}: {text}" for one in ahead for text in one.problems]
            findings.check(
                "every graph compiles as it should", not problem, "; ".join(problem) or f"{len(ahead)} built"
            )
            write_plot(out, "tensorrt-sizes", _plot(ahead, []))
        findings.figure("cache round trip, ms", cache_round_trip(library, opened))
    measured, missing = on_device(opened, bundle_path(bundle), frames, console, figures)
    for name in ("device", "first_decision_s"):
        if name in figures:
            findings.figure(name, figures[name])
    if measured:
        console.print(_device_table(measured))
        findings.figure("on device", [asdict(row) | {"added": row.added, "steady": row.steady} for row in measured])
        write_plot(out, "tensorrt-times", _plot([], measured))
        for row in measured:
            what = f"{row.stage} {row.precision}, {row.cuda}"
            findings.check(
                f"{what}: time outside the engine", row.added <= HOLD_ADDED, f"{row.added:.2f} of the engine's"
            )
            findings.check(f"{what}: steady", row.launch != "graph" or row.steady <= HOLD_STEADY, f"{row.steady:.2f}")
    for reason in missing:
        findings.miss(f"on a GPU, {reason}")


def graphs(bundle: Bundle) -> Iterator[tuple[Stage, str, bytes]]:
    """Every stage in every precision, with its graph."""
    for stage in bundle.manifest.stages:
        for precision, file in sorted(stage.files.items()):
            yield stage, precision, bundle.read(file)


def ahead_of_time(library: Library, bundle: Bundle, console: Console) -> list[Ahead]:
    """Compile everything for TARGETS; empty where the library only builds for the GPU at hand."""
    targets = [target for target in TARGETS if target in known_compute(library)]
    jobs = [(*graph, compute) for graph in graphs(bundle) for compute in targets]
    made = []
    for stage, precision, model, compute in track(jobs, "compile ahead of time", console=console, transient=True):
        built = build_engine(library, model, name=f"{stage.name} {precision}", compute=(compute,))
        facts = graph_facts(model)
        made.append(
            Ahead(
                stage=stage.name,
                precision=precision,
                compute=compute,
                seconds=built.seconds,
                plan_bytes=len(built.plan),
                weight_bytes=facts.weight_bytes,
                layers=built.layers,
                quantise_layers=built.quantise_layers,
                problems=problems(built, facts),
            )
        )
    return made


def cache_round_trip(library: Library, bundle: Bundle) -> float:
    """Milliseconds to keep an engine of the bundle's size and get it back, digest checked."""
    _stage, _precision, model = max(graphs(bundle), key=lambda graph: len(graph[2]))
    key = EngineKey(library.flavour, library.version, "none", "0.0", 0, hashlib.sha256(model).hexdigest())
    with tempfile.TemporaryDirectory(prefix="edge-runtime-gpu-") as folder:
        cache = EngineCache(Path(folder) / "engines")
        start = time.perf_counter()
        cache.store(key, "engine", model)
        if cache.load(key, "engine") != model:
            raise EngineError("engine cache: what comes back is not what was stored")
        return 1e3 * (time.perf_counter() - start)


def on_device(
    bundle: Bundle, path: Path, frames: int, console: Console, figures: dict[str, Any]
) -> tuple[list[OnDevice], list[str]]:
    """What was measured through each way to CUDA that opens, and why the others do not."""
    measured: list[OnDevice] = []
    missing: list[str] = []
    for cuda in CUDA:
        with tempfile.TemporaryDirectory(prefix="edge-runtime-gpu-") as folder:
            cache = Path(folder) / "engines"
            try:
                measured += list(_measure(bundle, cuda, cache, frames, console, figures))
                seconds = first_decision("tensorrt", cuda, str(path), cache)["total_s"]
                figures.setdefault("first_decision_s", {})[cuda] = seconds
            except (UserError, EngineError) as error:
                missing.append(f"{cuda}: {error}")
                continue
            console.print(f"{cuda}: first decision {seconds:.2f} s after start, cache warm (hold: {HOLD_FIRST_S:g} s)")
    return measured, missing


def _measure(
    bundle: Bundle, cuda: CudaChoice, cache: Path, frames: int, console: Console, figures: dict[str, Any]
) -> Iterator[OnDevice]:
    def open_backend() -> TensorRTBackend:
        return TensorRTBackend(load_library(), open_cuda(cuda), EngineCache(cache))

    with open_cuda(cuda) as device:  # first of all: where it does not open, nothing below is worth the time
        figures["device"] = asdict(device.info())
    inputs = moments(bundle, MOMENTS)
    expected = _oracle(bundle, inputs)
    for stage, precision, model in track(list(graphs(bundle)), f"measure, {cuda}", console=console, transient=True):
        moment_inputs = inputs[stage.name]
        cold_s = _opening_s(open_backend, stage, precision, model, moment_inputs[0])
        start = time.perf_counter()
        with open_backend() as backend, backend.open_engine(*opening(stage, precision, model)) as engine:
            engine.warm_up(moment_inputs[0])
            warm_s = time.perf_counter() - start
            found = [engine.run(tensors) for tensors in moment_inputs]
            reference = run_on_cpu(stage, precision, model, moment_inputs)
            error_abs, error_rel = error(found, reference)
            run_ms = [_run_ms(engine.run, moment_inputs[index % MOMENTS]) for index in range(frames)]
            engine_ms = percentile(engine.time_engine(frames), 50)
            yield OnDevice(
                stage=stage.name,
                precision=precision,
                cuda=cuda,
                launch=engine.launch_mode,
                cold_s=cold_s,
                warm_s=warm_s,
                error_abs=error_abs,
                error_rel=error_rel,
                error_fp32=error(found, expected[stage.name])[1],
                engine_ms=engine_ms,
                run_ms=percentile(run_ms, 50),
                run_p99_ms=percentile(run_ms, 99),
            )


def moments(bundle: Bundle, count: int) -> dict[str, list[Tensors]]:
    """Stage to `count` inputs: random, but such as the stage could meet; the same on every call."""
    rng = np.random.default_rng(0)
    found: dict[str, list[Tensors]] = {stage.name: [] for stage in bundle.manifest.stages}
    size = SentencePieceTokenizer(bundle.read(TOKENIZER)).size if TOKENIZER in bundle.manifest.files else 1
    for _ in range(count):
        known: dict[TensorSource, Tensor] = {PRESENCE: np.ones((1, len(bundle.manifest.presence)), np.float32)}
        for name, spec in bundle.manifest.streams.items():
            known |= {stream_tensor(name, field): value for field, value in _fields(spec, size, rng).items()}
        for stage in bundle.manifest.stages:
            tensors = feed(stage, known.__getitem__)
            found[stage.name].append(tensors)
            model = bundle.read(stage.files[_widest(stage)])
            (outputs,) = run_on_cpu(stage, _widest(stage), model, [tensors])
            known |= {stage_output(stage.name, key): value for key, value in outputs.items()}
    return found


def _fields(spec: StreamSpec, pieces: int, rng: np.random.Generator) -> Tensors:
    if isinstance(spec, CameraStream):
        return {"image": rng.integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)}
    if isinstance(spec, SensorStream):
        shape = (1, spec.window, len(spec.channels))
        mask = (rng.random(shape) < 0.9).astype(np.float32)
        window = np.clip(rng.normal(size=shape), -CLIP_SIGMA, CLIP_SIGMA).astype(np.float32)
        return {"window": window * mask, "mask": mask}
    if not isinstance(spec, TextStream):
        return {name: rng.random(field.shape).astype(field.dtype) for name, field in kind_of(spec).fields(spec).items()}
    length = int(rng.integers(1, spec.max_tokens + 1))
    ids, mask = np.zeros((1, spec.max_tokens), np.int32), np.zeros((1, spec.max_tokens), np.float32)
    ids[0, :length], mask[0, :length] = rng.integers(0, pieces, length), 1
    return {"ids": ids, "mask": mask}


def _widest(stage: Stage) -> str:
    return "fp32" if "fp32" in stage.files else sorted(stage.files)[0]


def _oracle(bundle: Bundle, inputs: dict[str, list[Tensors]]) -> dict[str, list[Tensors]]:
    """Stage to what its FP32 graph answers."""
    return {
        stage.name: run_on_cpu(stage, _widest(stage), bundle.read(stage.files[_widest(stage)]), inputs[stage.name])
        for stage in bundle.manifest.stages
    }


def run_on_cpu(stage: Stage, precision: str, model: bytes, inputs: Sequence[Tensors]) -> list[Tensors]:
    with OnnxRuntimeEngine(*opening(stage, precision, model), threads=ON_CPU.threads) as engine:
        return [engine.run(tensors) for tensors in inputs]


def opening(stage: Stage, precision: str, model: bytes) -> tuple[str, str, bytes, list[Any], tuple[Any, ...]]:
    return stage.name, precision, model, [item.spec for item in stage.inputs], stage.outputs


def _opening_s(
    open_backend: Callable[[], TensorRTBackend], stage: Stage, precision: str, model: bytes, tensors: Tensors
) -> float:
    start = time.perf_counter()
    with open_backend() as backend, backend.open_engine(*opening(stage, precision, model)) as engine:
        engine.warm_up(tensors)
        return time.perf_counter() - start


def _run_ms(run: Callable[[Tensors], Tensors], tensors: Tensors) -> float:
    start = time.perf_counter_ns()
    run(tensors)
    return (time.perf_counter_ns() - start) / 1e6


def error(found: Sequence[Tensors], expected: Sequence[Tensors]) -> tuple[float, float]:
    """Largest difference over all outputs and moments: absolute, and over the largest value expected."""
    absolute, largest = 0.0, 0.0
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            wide = value.astype(np.float64)
            absolute = max(absolute, float(np.abs(one[name].astype(np.float64) - wide).max()))
            largest = max(largest, float(np.abs(wide).max()))
    return absolute, absolute / max(largest, 1e-12)


def _ahead_table(library: str, ahead: Sequence[Ahead]) -> Table:
    table = Table(title=f"compiled without a GPU, {library}")
    for column in ("stage", "precision", "compute", "s", "engine kB", "weights kB", "layers", "quantise", "problems"):
        table.add_column(column, justify="left" if column in {"stage", "precision", "problems"} else "right")
    for row in ahead:
        sizes = (
            f"{row.plan_bytes / 1e3:.0f}",
            f"{row.weight_bytes / 1e3:.0f}",
            f"{row.layers}",
            f"{row.quantise_layers}",
        )
        table.add_row(row.stage, row.precision, row.compute, f"{row.seconds:.2f}", *sizes, "; ".join(row.problems))
    return table


def _device_table(measured: Sequence[OnDevice]) -> Table:
    table = Table(title=f"on the GPU (hold: added <= {HOLD_ADDED}, p99/p50 <= {HOLD_STEADY} for graphs)")
    columns = ("engine ms", "run ms", "added", "p99/p50", "max abs", "rel", "rel to fp32", "cold s", "warm s")
    for column in ("stage", "precision", "cuda", "launch", *columns):
        table.add_column(column, justify="right" if column in columns else "left")
    for row in measured:
        times = f"{row.engine_ms:.3f}", f"{row.run_ms:.3f}", f"{row.added:.2f}", f"{row.steady:.2f}"
        errors = f"{row.error_abs:.1e}", f"{row.error_rel:.1e}", f"{row.error_fp32:.1e}"
        opening = f"{row.cold_s:.2f}", f"{row.warm_s:.2f}"
        table.add_row(row.stage, row.precision, row.cuda, row.launch, *times, *errors, *opening)
    return table


def _plot(ahead: Sequence[Ahead], measured: Sequence[OnDevice]) -> Any:
    """Times on the GPU where there are any, else sizes of the engines; None where there is neither."""
    if not ahead and not measured:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts: tuple[tuple[str, list[float]], ...]
    if measured:
        names = [f"{row.stage} {row.precision}, {row.cuda}" for row in measured]
        added = [max(0.0, row.run_ms - row.engine_ms) for row in measured]
        parts = ("in the engine", [row.engine_ms for row in measured]), ("around it", added)
        label, title = "ms, median", "A run on the GPU"
    else:
        first = [row for row in ahead if row.compute == ahead[0].compute]
        names = [f"{row.stage} {row.precision}" for row in first]
        rest = [max(0.0, (row.plan_bytes - row.weight_bytes) / 1e6) for row in first]
        parts = ("weights in the graph", [row.weight_bytes / 1e6 for row in first]), ("the rest of the engine", rest)
        label, title = "MB", f"Engines compiled for compute {first[0].compute}"
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.35 * len(names)))
    left = np.zeros(len(names))
    for part, values in parts:
        axes.barh(names, values, left=left, label=part)
        left += values
    axes.invert_yaxis()
    axes.set(xlabel=label, title=title)
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
