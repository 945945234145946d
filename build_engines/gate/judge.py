"""The stage `evaluate`: the gate. What will ship, judged against FP32 on the evaluation split; no report, no bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from build_engines.build import Build
from build_engines.data.moments import evaluation_moments
from build_engines.evaluation import evaluate as ev
from build_engines.evaluation.evaluate import Evaluation
from build_engines.gate.candidate import everything, write_candidate
from build_engines.gate.cost import COST, measure, on_targets, over
from build_engines.gate.limits import (
    LOGITS,
    VERDICT,
    Agreement,
    Judged,
    Verdict,
    disagreements,
    fallen,
    refuse_poor_reference,
    too_small_a_gain,
    without_evidence,
)
from build_engines.gate.on_tensorrt import MOMENTS, Gpu, find_gpu, settings, stage_agreements
from build_engines.gate.summary import as_markdown, plot, show
from build_engines.heads.intervals import Interval, interval, resamples
from build_engines.heads.kind import Pairs
from build_engines.progress import counted
from build_engines.quantisation.calibrate import StageInputs, feeding_all
from build_engines.quantisation.plan import read_plan
from build_engines.quantisation.sensitivity import Sensitivity
from build_engines.write_bundle import write_bundle
from calibration.samples import read_samples
from edge_runtime.bundle import Bundle, Manifest
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, GateRefused, UserError
from edge_runtime.infer import ON_CPU
from edge_runtime.messages import Tensor
from edge_runtime.pipeline import Pipeline

RESAMPLES = 300
LOWER = {"int8": "fp16", "fp16": "fp32"}


def judge_candidate(build: Build, bundle: Bundle) -> None:
    """Write report/ and, if it passes, candidate/ below the work folder. Raises GateRefused saying what fell."""
    for name in ("candidate", "report"):
        shutil.rmtree(build.work / name, ignore_errors=True)
    (build.work / "report").mkdir(parents=True)
    found = read_plan(build.work / "quantised")
    manifest, files = everything(build, bundle)
    trial = write_bundle(build.work / "trial", manifest, files)
    judge = Judge(build, trial)
    exact = judge.reference.evaluation
    refuse_poor_reference(exact, build.recipe.gate)
    notes: list[str] = list(found.reasons)
    for name in ("fp16", "int8"):
        plan = {stage.name: _nearest(name, stage.files) for stage in manifest.stages}
        if name in plan.values():
            judge.add(name, plan)
    plan, chosen = _settle(build, judge, manifest, found, notes)
    passed = chosen.passed
    gpu = find_gpu(build)
    notes.append(_judged_on(gpu, passed))
    if gpu.description and passed:
        passed = judge.add_on_gpu(plan, gpu).passed
    build.console.print(f"evaluate: {notes[-1]}", highlight=False)
    _within_budget(build, trial, plan)
    show(build.console, judge.judged)
    report = {"gate.md": as_markdown(judge.judged, notes, found).encode(), "gate.png": plot(judge.judged, found)}
    for name, data in report.items():
        (build.work / "report" / name).write_bytes(data)
    digest = write_candidate(build, trial, exact, judge.judged, plan, found, report, notes) if passed else ""
    verdict = Verdict(passed, digest, chosen.name, tuple(judge.judged), tuple(notes))
    (build.work / VERDICT).write_bytes(msgspec.json.format(msgspec.json.encode(verdict), indent=1) + b"\n")
    shutil.rmtree(build.work / "trial")
    if not passed:
        lines = "\n".join(f"  {one.name}: {failure}" for one in judge.judged for failure in one.failures)
        what = (
            "what passed on ONNX Runtime does not on TensorRT"
            if chosen.passed
            else "the reduced precision loses too much"
        )
        raise GateRefused(f"evaluate: {what}:\n{lines}{'' if chosen.passed else _blame(found, plan)}")


def _within_budget(build: Build, trial: Bundle, plan: Mapping[str, str]) -> None:
    """Measure, write and tell what the plan costs. Raises GateRefused where the recipe allows less, and where a machine
    that it names has not timed the plan: then what it has to time lies in unmeasured/ below the work folder."""
    exact = dict.fromkeys(plan, "fp32")
    plans = {"default": dict(plan) if build.recipe.slim else exact, "tensorrt": dict(plan)}
    taken, unmeasured = on_targets(trial, plans, build.recipe.budget)
    cost = measure(trial, plan, taken)
    (build.work / COST).write_bytes(msgspec.json.format(msgspec.json.encode(cost), indent=1) + b"\n")
    build.console.print(f"evaluate: costs {cost.words}", highlight=False)
    problems = over(cost, build.recipe.budget)
    folder = build.work / "unmeasured"
    shutil.rmtree(folder, ignore_errors=True)
    if unmeasured:
        manifest = msgspec.structs.replace(trial.manifest, precision=plans)
        write_bundle(folder, manifest, {name: trial.read(name) for name in trial.manifest.files})
    for target, why in unmeasured:
        problems.append(
            f"nobody knows what a decision takes on {target}: {why}; copy {folder} there, run edge-runtime bundle time "
            f"unmeasured --allow-unsigned --out {target}.json, and name that file as budget.targets.{target}.measured"
        )
    if problems:
        raise GateRefused(f"evaluate: {'; '.join(problems)}")


def _settle(
    build: Build, judge: Judge, manifest: Manifest, found: Sensitivity, notes: list[str]
) -> tuple[dict[str, str], Judged]:
    """The plan after the fallbacks that the recipe allows, each told in `notes`, and how it was judged."""
    plan = dict(found.plan)
    chosen = judge.add("plan", plan)
    while not chosen.passed and build.recipe.gate.fallback and set(plan.values()) != {"fp32"}:
        worst = _costliest(found, plan)
        plan = plan | {worst: LOWER[plan[worst]] if LOWER[plan[worst]] in _files_of(manifest, worst) else "fp32"}
        notes.append(f"gate: {chosen.failures[0]}; {worst} falls back to {plan[worst]}")
        chosen = judge.add("plan", plan)
    return plan, chosen


def _judged_on(gpu: Gpu, passed: bool) -> str:
    if not gpu.description:
        return f"judged on ONNX Runtime (CPU) only: {gpu.reason}"
    if not passed:
        return f"judged on ONNX Runtime (CPU) only: refused there, so not tried on {gpu.description}"
    return f"judged on ONNX Runtime (CPU) and on {gpu.description}"


def _files_of(manifest: Manifest, stage: str) -> Mapping[str, str]:
    return next(one.files for one in manifest.stages if one.name == stage)


def _nearest(precision: str, files: Mapping[str, str]) -> str:
    return precision if precision in files else "fp16" if "fp16" in files else "fp32"


def _costliest(found: Sensitivity, plan: Mapping[str, str]) -> str:
    """The reduced stage of `plan` that costs most by the sensitivity table."""
    return max((name for name in plan if plan[name] != "fp32"), key=lambda name: _cost(found, name, plan[name]))


def _blame(found: Sensitivity, plan: Mapping[str, str]) -> str:
    """In words, which stage of a refused plan to look at."""
    if set(plan.values()) == {"fp32"}:
        return ""
    worst = _costliest(found, plan)
    loss, error = _cost(found, worst, plan[worst])
    return (
        f"\n  {worst} in {plan[worst]} costs most: {loss:.4f} of the figure by itself, logits {error:.1%} off; "
        "take it out of quantise.stages, or let gate.fallback give its precision back"
    )


def _cost(found: Sensitivity, stage: str, precision: str) -> tuple[float, float]:
    rows = [row for row in found.rows if row.stage == stage and row.precision.split()[0] == precision]
    return max(((row.loss, row.logits_error) for row in rows), default=(0.0, 0.0))


class _Run(Struct, frozen=True):
    evaluation: Evaluation
    pairs: Mapping[str, Pairs]
    """The model's own answers, by head."""

    @property
    def logits(self) -> Sequence[Tensor | None]:
        """Of each decision."""
        return self.evaluation.outputs


class Judge:
    """Evaluates plans of one bundle on the same moments and compares each with FP32. One thread."""

    def __init__(self, build: Build, bundle: Bundle) -> None:
        self._job = build
        self._bundle = bundle
        exact = {stage.name: "fp32" for stage in bundle.manifest.stages}
        self.reference = self._run("fp32", exact)
        # A pair for each answer that is judged: a moment's, or each word's of a tagged sentence.
        self._resamples = {
            name: resamples(pairs.groups, RESAMPLES, build.recipe.seed) for name, pairs in self.reference.pairs.items()
        }
        self._reference_draws = self.reference.pairs[""].bootstrap(self._resamples[""])
        self.judged: list[Judged] = [self._judged("fp32", exact, self.reference, ())]

    def add(self, name: str, plan: Mapping[str, str]) -> Judged:
        """Judge `plan`; one that was judged already keeps its judgement, under the new name if it is the chosen one."""
        for index, candidate in enumerate(self.judged):
            if candidate.plan == dict(plan):
                self.judged[index] = msgspec.structs.replace(
                    candidate, name=name if candidate.name != "fp32" else candidate.name
                )
                return self.judged[index]
        run = self._run(name, plan)
        self.judged.append(self._judged(name, plan, run, self._failures(plan, run)))
        return self.judged[-1]

    def add_on_gpu(self, plan: Mapping[str, str], gpu: Gpu) -> Judged:
        """Judge `plan` on TensorRT too, by the same limits and by its agreement with the oracle, stage by stage.

        Raises GateRefused where a stage's engine cannot be had or run.
        """
        every = read_samples(self._bundle, evaluation_moments(self._job, self._bundle))
        step = max(1, -(-len(self.reference.logits) // MOMENTS))
        samples = feeding_all(self._bundle.manifest.stages, every, step)
        agreement = stage_agreements(self._job, self._bundle, plan, StageInputs(self._bundle, samples))
        try:
            run = self._run(f"plan on {gpu.description}", plan, settings(self._job))
            oracle = self._run("plan", plan)
        except (EngineError, UserError) as error:
            raise GateRefused(f"evaluate: the plan on {gpu.description}: {error}") from None
        pairs = list(zip(run.logits, oracle.logits, strict=True))
        both = [(one, other) for one, other in pairs if one is not None and other is not None]
        agreement[LOGITS] = Agreement.of([one for one, _ in both], [other for _, other in both])
        failures = disagreements(agreement, plan, self._job.recipe.gate) + self._failures(plan, run)
        if alone := sum((one is None) != (other is None) for one, other in pairs):
            failures.append(f"{LOGITS}: {alone} of {len(pairs)} moments have some on one side only")
        judged = self._judged(f"plan on {gpu.description}", plan, run, failures)
        self.judged.append(msgspec.structs.replace(judged, backend=gpu.description, agreement=agreement))
        return self.judged[-1]

    def _run(self, name: str, plan: Mapping[str, str], engine: EngineConfig = ON_CPU) -> _Run:
        pipeline = Pipeline(self._bundle, engine, plan=plan)
        moments = evaluation_moments(self._job, self._bundle)
        try:
            found = ev.evaluate(pipeline, counted(self._job.console, f"evaluate: {name}", moments))
        finally:
            pipeline.close()
        pairs = {name: one.pairs(model=True) for name, one in found.everything.items()}
        return _Run(found, pairs)

    def _bytes(self, plan: Mapping[str, str]) -> int:
        return sum(len(self._bundle.read(stage.files[plan[stage.name]])) for stage in self._bundle.manifest.stages)

    def _judged(self, name: str, plan: Mapping[str, str], run: _Run, failures: Sequence[str]) -> Judged:
        draws = run.pairs[""].bootstrap(self._resamples[""])
        model = run.evaluation.model
        return Judged(
            name=name,
            plan=dict(plan),
            bytes=self._bytes(plan),
            figure=interval(model.figure, draws),
            difference=interval(model.figure - self.reference.evaluation.model.figure, draws - self._reference_draws),
            decisions_figure=run.evaluation.scores.figure,
            parts=self._parts(run),
            failures=tuple(failures),
            figure_name=run.evaluation.build.figure,
            part_figure=run.evaluation.build.part_figure,
        )

    def _parts(self, run: _Run) -> dict[str, Interval]:
        found = {}
        for name, pairs in run.pairs.items():
            drawn = pairs.part_bootstrap(self._resamples[name])
            for part, value in pairs.scores.parts.items():
                found[f"{name}.{part}" if name else part] = interval(value, drawn[part])
        return found

    def _failures(self, plan: Mapping[str, str], run: _Run) -> list[str]:
        gate, exact = self._job.recipe.gate, self.reference.evaluation
        reasons = (prediction.reason or "" for prediction in run.evaluation.predictions)
        failures = [reason for reason in reasons if reason.startswith("engine")][:1]
        failures += without_evidence(plan, run.evaluation.timings)
        for name, before in exact.everything.items():
            after, whose = run.evaluation.everything[name], f"{name} " if name else ""
            failures += fallen(f"{whose}model", before.model, after.model, gate)
            failures += fallen(f"{whose}decisions", before.scores, after.scores, gate)
        if set(plan.values()) != {"fp32"}:
            failures += too_small_a_gain(self._bytes(plan), self._bytes(dict.fromkeys(plan, "fp32")), gate)
        return failures
