"""The trial bundle that is judged, and the candidate that ships if it passes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.build import Build
from build_engines.choice.choice import read_decided
from build_engines.compile import ENGINES
from build_engines.data.datasets import layout_of_recipe
from build_engines.evaluation import evaluate as ev
from build_engines.evaluation.degrade import degrade, limited
from build_engines.evaluation.evaluate import Evaluation
from build_engines.evaluation.report import analyse, full_report, words
from build_engines.gate.limits import Judged
from build_engines.heads.expected import Expected, as_many, expect, prove
from build_engines.heads.kind import Pairs
from build_engines.quantisation.sensitivity import Sensitivity
from build_engines.recipe import Recipe
from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import Bundle, EngineFile, Manifest
from edge_runtime.pipeline import Pipeline
from edge_runtime.slots import TRIAL, Trial
from edge_runtime.voice.grammar import GRAMMAR

DEGRADED = 600
"""At most so many moments are put through every way of going bad, or the gate would take longer than the training."""


def everything(build: Build, bundle: Bundle) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with every graph that the quantise stage made, and every engine compiled of them."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    stages = []
    for stage in bundle.manifest.stages:
        graphs = dict(stage.files)
        for precision in ("fp16", "int8"):
            path = build.work / "quantised" / f"{stage.name}.{precision}.onnx"
            if path.is_file():
                graphs[precision] = f"stages/{path.name}"
                files[f"stages/{path.name}"] = path.read_bytes()
        stages.append(msgspec.structs.replace(stage, files=graphs))
    engines = msgspec.json.decode((build.work / "engines" / ENGINES).read_bytes(), type=tuple[EngineFile, ...])
    files |= {engine.file: (build.work / engine.file).read_bytes() for engine in engines}
    return msgspec.structs.replace(bundle.manifest, stages=tuple(stages), engines=engines), files


def write_candidate(
    build: Build,
    trial: Bundle,
    exact: Evaluation,
    judged: Sequence[Judged],
    plan: Mapping[str, str],
    found: Sensitivity,
    report: Mapping[str, bytes],
    notes: Sequence[str],
) -> str:
    """The bundle as it will ship: graphs of precisions that passed, engines of the plan, and all reports.

    `exact` is FP32's evaluation. Gives the candidate's digest.
    """
    shipped = {precision for one in judged if one.passed for precision in one.plan.values()} | {"fp32"}
    manifest = trial.manifest
    stages = tuple(
        msgspec.structs.replace(
            stage, files={p: f for p, f in stage.files.items() if p in shipped or p == plan[stage.name]}
        )
        for stage in manifest.stages
    )
    graphs = {file for stage in stages for file in stage.files.values()}
    engines = tuple(engine for engine in manifest.engines if plan[engine.stage] == engine.precision)
    kept = graphs | {engine.file for engine in engines}
    files = {
        name: trial.read(name)
        for name in manifest.files
        if not name.startswith(("stages/", "engines/")) or name in kept
    }
    best = next(one for one in judged if one.plan == dict(plan))
    expected = _expected(build, exact)
    evaluation = _evaluation(build, trial, exact, best, expected)
    files |= {f"report/{name}": data for name, data in (evaluation | dict(report)).items()}
    files["report/gate.json"] = msgspec.json.format(msgspec.json.encode([judged, notes, found]), indent=1)
    if build.recipe.trial != Trial():
        files[TRIAL] = msgspec.json.format(msgspec.json.encode(build.recipe.trial), indent=1) + b"\n"
    if build.recipe.grammar:
        files[GRAMMAR] = build.recipe.grammar.encode()
    for kind in ("md", "png"):
        files[f"report/calibration.{kind}"] = (build.work / "calibration" / f"coverage.{kind}").read_bytes()
    ranges = (build.work / "calibration" / "ranges.json").read_bytes()
    key = next(name for name in exact.model.summary if name != "accuracy")
    figures = {
        **exact.scores.summary,
        **{f"model_{name}": value for name, value in exact.model.summary.items()},
        f"plan_{key}": best.decisions_figure,
        f"plan_model_{key}": best.figure.value,
        f"plan_model_{key}_difference": best.difference.value,
        **exact.build.figures(exact.head, exact.predictions),
        **_promised(expected),
        **{f"{name}.{what}": value for name, one in exact.side.items() for what, value in one.model.summary.items()},
    }
    candidate = write_bundle(
        build.work / "candidate",
        msgspec.structs.replace(
            manifest,
            stages=stages,
            precision=dict(manifest.precision) | {"tensorrt": dict(plan)},
            engines=engines,
            figures={name: round(value, 6) for name, value in figures.items()},
            training=dict(manifest.training) | {"calibration_sha256": hashlib.sha256(ranges).hexdigest()},
        ),
        files,
    )
    return candidate.digest


def _evaluation(
    build: Build, trial: Bundle, exact: Evaluation, best: Judged, expected: Expected | None
) -> dict[str, bytes]:
    """The full report of FP32's evaluation, by file name; `best` is what ships where reduced precision can run."""
    layout, split = layout_of_recipe(build.recipe), build.recipe.evaluate_split
    pipeline = Pipeline(trial)
    try:
        read = limited(partial(layout.read, build.data, split, pipeline.streams), DEGRADED)
        degradation = degrade(pipeline, read, build.console)
    finally:
        pipeline.close()
    ev.show(build.console, trial, split, exact)
    build.console.print(degradation.table())
    gate = f"passed; the plan's {exact.build.figure} is {words(best.figure)}, {words(best.difference)} to FP32"
    findings = analyse(trial, exact, build.recipe.seed, degradation=degradation, gate=gate, expected=expected)
    return full_report(trial, split, exact, findings)


def _promised(expected: Expected | None) -> dict[str, float]:
    """For the manifest: the figure that new groups are expected to give, and the next set of them."""
    if expected is None:
        return {}
    return {
        "expected": expected.mean.value,
        "expected_low": expected.next.low,
        "expected_high": expected.next.high,
    }


def _expected(build: Build, exact: Evaluation) -> Expected | None:
    """What the moments that were left out of training promise for as many groups as were evaluated; None where none
    were left out."""
    if not isinstance(build.recipe, Recipe) or not (decided := read_decided(build.work)):
        return None
    said, folds, seed = [one.prediction for one in decided], [one.fold for one in decided], build.recipe.seed

    def pairs_of(rows: NDArray[np.int64]) -> Pairs:
        return exact.build.pairs(exact.head, [said[row] for row in rows])

    every = pairs_of(np.arange(len(said)))
    expected = expect(every, folds, as_many(every.groups, exact.pairs().groups), seed)
    return prove(expected, pairs_of, every.groups, folds, seed)
