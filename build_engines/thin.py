"""A bundle for one kind of device: without the graphs, engines and reports that it has no use for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import Bundle, EngineFile, Manifest
from edge_runtime.errors import UserError
from edge_runtime.slots import TRIAL

REPORTS = "report/"


def thin(bundle: Bundle, target: str, compute: str, reports: bool, out: Path) -> Bundle:
    """Write `bundle` to the directory `out` with the graphs of `target`'s plan alone, engines for the compute
    capability `compute` (none where it is empty), and reports if wanted. Unsigned: it is another bundle.

    A device that was to fall back on the CPU does so in the precision of that plan. Raises UserError.
    """
    if out.resolve() == bundle.path.resolve():
        raise UserError(f"{out} is the bundle itself; choose another folder for the thin one")
    manifest = bundle.manifest
    plan = bundle.plan(target)
    engines = tuple(engine for engine in manifest.engines if _fits(engine, target, compute, plan))
    if compute and manifest.engines and not engines:
        there = sorted({capability for engine in manifest.engines for capability in engine.compute})
        raise UserError(f"{bundle.path}: has no engine for {compute}; it has some for {', '.join(there)}")
    kept = (name for name in manifest.files if reports or name == TRIAL or not name.startswith(REPORTS))
    files = {name: bundle.read(name) for name in kept}
    return write_bundle(out, *with_plan(manifest, files, plan, engines))


def with_plan(
    manifest: Manifest, files: Mapping[str, bytes], plan: Mapping[str, str], engines: Sequence[EngineFile]
) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle's contents with the graphs of `plan` (stage to precision), for whatever back end, and `engines`."""
    stages = tuple(
        msgspec.structs.replace(stage, files={plan[stage.name]: stage.files[plan[stage.name]]})
        for stage in manifest.stages
    )
    graphs = {file for stage in manifest.stages for file in stage.files.values()}
    needed = {file for stage in stages for file in stage.files.values()} | {engine.file for engine in engines}
    dropped = (graphs | {engine.file for engine in manifest.engines}) - needed
    kept = {name: data for name, data in files.items() if name not in dropped}
    thinned = msgspec.structs.replace(
        manifest, stages=stages, engines=tuple(engines), precision={"default": dict(plan)}, files={}
    )
    return thinned, kept


def _fits(engine: EngineFile, target: str, compute: str, plan: dict[str, str]) -> bool:
    return target == "tensorrt" and compute in engine.compute and plan.get(engine.stage) == engine.precision
