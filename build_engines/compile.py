"""The stage `compile`: engines for named GPUs, ahead of time and without one, and the checks of what came out."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from build_engines.build import Build
from build_engines.quantisation.plan import read_plan
from edge_runtime.bundle import Bundle, EngineFile
from edge_runtime.errors import BundleError, EngineError, GateRefused
from edge_runtime.infer.tensorrt.build import Built, build_engine, graph_facts, problems
from edge_runtime.infer.tensorrt.build import Progress as Step
from edge_runtime.infer.tensorrt.library import Library, find_library

ENGINES = "engines.json"


def find_compiler() -> Library | None:
    """The library that compiles without a GPU, if it is installed."""
    return find_library(("tensorrt_rtx",))


def compile_engines(build: Build, bundle: Bundle, folder: Path) -> None:
    """Engines of every stage and reduced precision (FP32 where the plan has it) for all targets, into `folder`.

    Raises GateRefused for a graph that is not taken, a build that fails and an engine that looks wrong; ConfigError
    for a target that the library does not know.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    library = find_compiler()
    engines: list[EngineFile] = []
    targets = build.recipe.compile.targets
    if library is None:
        build.console.print("compile: no TensorRT here; devices will build their own engines from the bundle's graphs")
    elif targets:
        work = list(_graphs(build, bundle))
        with _progress(build.console) as progress:
            task = progress.add_task("compile", total=len(work))
            for number, (stage, precision, model) in enumerate(work):
                progress.update(task, description=f"{stage} {precision}")

                def step(part: float, _phase: str, before: int = number) -> None:
                    progress.update(task, completed=before + part)

                built = compile_graph(
                    library, model, f"{stage} in {precision}", targets, build.recipe.compile.workspace_mb, step
                )
                name = f"{stage}.{precision}.engine"
                (folder / name).write_bytes(built.plan)
                digest = hashlib.sha256(model).hexdigest()
                engines.append(
                    EngineFile(stage, precision, library.flavour, library.version, targets, digest, f"engines/{name}")
                )
                progress.update(task, completed=number + 1)
                build.console.print(
                    f"compile: {stage} {precision} for {', '.join(targets)}: {len(built.plan) / 1e6:.1f} MB in "
                    f"{built.seconds:.1f} s",
                    highlight=False,
                )
    (folder / ENGINES).write_bytes(msgspec.json.format(msgspec.json.encode(engines), indent=1) + b"\n")


def compile_graph(
    library: Library,
    model: bytes,
    where: str,
    targets: tuple[str, ...],
    workspace_mb: int,
    step: Step = lambda part, phase: None,
) -> Built:
    """The engine of `model` (ONNX bytes) for GPUs of the compute capabilities `targets`, checked.

    Raises GateRefused naming `where` and the reason; ConfigError for a target that is not known.
    """
    try:
        built = build_engine(
            library, model, name=where, compute=targets, workspace_bytes=workspace_mb << 20, progress=step
        )
    except (BundleError, EngineError) as error:
        raise GateRefused(f"compile: {error}") from None
    if faults := problems(built, graph_facts(model, where)):
        raise GateRefused(f"compile: {where}: {'; '.join(faults)}")
    return built


def _graphs(build: Build, bundle: Bundle) -> Iterator[tuple[str, str, bytes]]:
    """Stage, precision and ONNX bytes of all that may ship on TensorRT."""
    plan = read_plan(build.work / "quantised").plan
    for stage in bundle.manifest.stages:
        for precision in ("fp16", "int8"):
            path = build.work / "quantised" / f"{stage.name}.{precision}.onnx"
            if path.is_file():
                yield stage.name, precision, path.read_bytes()
        if plan[stage.name] == "fp32":
            yield stage.name, "fp32", bundle.read(stage.files["fp32"])


def _progress(console: Console) -> Progress:
    columns = (TextColumn("compile: {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
