"""The stage `evaluate`: the gate. What will ship, judged against FP32 on the evaluation split; no report, no bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from build_engines import evaluate as ev
from build_engines.compile import ENGINES
from build_engines.datasets import layout_of_recipe
from build_engines.evaluate import Evaluation
from build_engines.job import Job
from build_engines.line import evaluation_moments
from build_engines.metrics import Scores
from build_engines.plan import read_plan
from build_engines.recipe import GateRecipe
from build_engines.sensitivity import Sensitivity
from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import Bundle, EngineFile, Manifest
from edge_runtime.errors import GateRefused
from edge_runtime.pipeline import Pipeline

VERDICT = "report/verdict.json"
RESAMPLES = 300
LOWER = {"int8": "fp16", "fp16": "fp32"}


class Interval(Struct, frozen=True):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Judged(Struct, frozen=True):
    """One plan's standing against FP32: the model alone, and the decisions after the policy."""

    name: str
    plan: dict[str, str]
    bytes: int
    """Of the plan's graphs."""
    macro_f1: Interval
    difference: Interval
    """To FP32, on the same resamples."""
    decisions_macro_f1: float
    classes: dict[str, tuple[float, float, float]]
    """Precision, recall and F1 of the model alone."""
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


class Verdict(Struct, frozen=True):
    """`verdict.json`."""

    passed: bool
    bundle_digest: str
    """Of the candidate bundle's manifest; empty where it was refused."""
    chosen: str
    judged: tuple[Judged, ...]
    notes: tuple[str, ...]


def judge_candidate(job: Job, bundle: Bundle) -> None:
    """Write report/ and, if it passes, candidate/ below the work folder. Raises GateRefused saying what fell."""
    gate = job.recipe.gate
    for name in ("candidate", "report"):
        shutil.rmtree(job.work / name, ignore_errors=True)
    (job.work / "report").mkdir(parents=True)
    found = read_plan(job.work / "quantised")
    manifest, files = _everything(job, bundle)
    trial = write_bundle(job.work / "trial", manifest, files)
    judge = Judge(job, trial)
    exact = judge.reference
    _refuse_poor_reference(exact.evaluation, manifest.head.labels, gate)
    notes: list[str] = list(found.reasons)
    for name in ("fp16", "int8"):
        plan = {stage.name: _nearest(name, stage.files) for stage in manifest.stages}
        if name in plan.values():
            judge.add(name, plan)
    plan = dict(found.plan)
    chosen = judge.add("plan", plan)
    while not chosen.passed and gate.fallback and set(plan.values()) != {"fp32"}:
        worst = max((name for name in plan if plan[name] != "fp32"), key=lambda name: _cost(found, name, plan[name]))
        plan = plan | {worst: LOWER[plan[worst]] if LOWER[plan[worst]] in _files_of(manifest, worst) else "fp32"}
        notes.append(f"gate: {chosen.failures[0]}; {worst} falls back to {plan[worst]}")
        chosen = judge.add("plan", plan)
    passed = chosen.passed
    show(job.console, judge.judged)
    report = {"gate.md": as_markdown(judge.judged, notes, found).encode(), "gate.png": plot(judge.judged, found)}
    for name, data in report.items():
        (job.work / "report" / name).write_bytes(data)
    digest = ""
    if passed:
        digest = _write_candidate(job, trial, judge, plan, found, report, notes)
    verdict = Verdict(passed, digest, chosen.name, tuple(judge.judged), tuple(notes))
    (job.work / VERDICT).write_bytes(msgspec.json.format(msgspec.json.encode(verdict), indent=1) + b"\n")
    shutil.rmtree(job.work / "trial")
    if not passed:
        lines = "\n".join(f"  {one.name}: {failure}" for one in judge.judged for failure in one.failures)
        raise GateRefused(f"evaluate: the reduced precision loses too much:\n{lines}")


def _everything(job: Job, bundle: Bundle) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with every graph that the quantise stage made."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    stages = []
    for stage in bundle.manifest.stages:
        graphs = dict(stage.files)
        for precision in ("fp16", "int8"):
            path = job.work / "quantised" / f"{stage.name}.{precision}.onnx"
            if path.is_file():
                graphs[precision] = f"stages/{path.name}"
                files[f"stages/{path.name}"] = path.read_bytes()
        stages.append(msgspec.structs.replace(stage, files=graphs))
    return msgspec.structs.replace(bundle.manifest, stages=tuple(stages)), files


def _files_of(manifest: Manifest, stage: str) -> Mapping[str, str]:
    return next(one.files for one in manifest.stages if one.name == stage)


def _nearest(precision: str, files: Mapping[str, str]) -> str:
    return precision if precision in files else "fp16" if "fp16" in files else "fp32"


def _cost(found: Sensitivity, stage: str, precision: str) -> tuple[float, float]:
    rows = [row for row in found.rows if row.stage == stage and row.precision.split()[0] == precision]
    return max(((row.loss, row.logits_error) for row in rows), default=(0.0, 0.0))


class _Run(Struct, frozen=True):
    evaluation: Evaluation
    truth: tuple[str, ...]
    answers: tuple[str, ...]


class Judge:
    """Evaluates plans of one bundle on the same moments and compares each with FP32. One thread."""

    def __init__(self, job: Job, bundle: Bundle) -> None:
        self._job = job
        self._bundle = bundle
        self._groups = [moment.cluster or moment.group for moment in evaluation_moments(job, bundle)]
        self._resamples = resamples(self._groups, RESAMPLES, job.recipe.seed)
        self.reference = self._run({stage.name: "fp32" for stage in bundle.manifest.stages})
        self._reference_f1 = bootstrap(self.reference.truth, self.reference.answers, self._resamples)
        exact = {stage.name: "fp32" for stage in bundle.manifest.stages}
        self.judged: list[Judged] = [self._judged("fp32", exact, self.reference, ())]

    def add(self, name: str, plan: Mapping[str, str]) -> Judged:
        """Judge `plan`; one that was judged already keeps its judgement, under the new name if it is the chosen one."""
        for index, one in enumerate(self.judged):
            if one.plan == dict(plan):
                self.judged[index] = msgspec.structs.replace(one, name=name if one.name != "fp32" else one.name)
                return self.judged[index]
        run = self._run(plan)
        self.judged.append(self._judged(name, plan, run, self._failures(plan, run)))
        return self.judged[-1]

    def _run(self, plan: Mapping[str, str]) -> _Run:
        pipeline = Pipeline(self._bundle, plan=plan)
        try:
            found = ev.evaluate(pipeline, evaluation_moments(self._job, self._bundle))
        finally:
            pipeline.close()
        truth = tuple(one.truth for one in found.predictions)
        return _Run(found, truth, tuple(one.answer for one in found.predictions))

    def _bytes(self, plan: Mapping[str, str]) -> int:
        return sum(len(self._bundle.read(stage.files[plan[stage.name]])) for stage in self._bundle.manifest.stages)

    def _judged(self, name: str, plan: Mapping[str, str], run: _Run, failures: Sequence[str]) -> Judged:
        scores = bootstrap(run.truth, run.answers, self._resamples)
        model = run.evaluation.model
        return Judged(
            name=name,
            plan=dict(plan),
            bytes=self._bytes(plan),
            macro_f1=_interval(model.f1_macro, scores),
            difference=_interval(
                model.f1_macro - self.reference.evaluation.model.f1_macro, scores - self._reference_f1
            ),
            decisions_macro_f1=run.evaluation.scores.f1_macro,
            classes={key: (one.precision, one.recall, one.f1) for key, one in model.classes.items()},
            failures=tuple(failures),
        )

    def _failures(self, plan: Mapping[str, str], run: _Run) -> list[str]:
        gate, exact = self._job.recipe.gate, self.reference.evaluation
        failures = [one.reason or "" for one in run.evaluation.predictions if (one.reason or "").startswith("engine")][
            :1
        ]
        pairs = (("model", exact.model, run.evaluation.model), ("decisions", exact.scores, run.evaluation.scores))
        for what, before, after in pairs:
            failures += fallen(what, before, after, gate)
        size, full = self._bytes(plan), self._bytes(dict.fromkeys(plan, "fp32"))
        if set(plan.values()) != {"fp32"} and size > (1 - gate.min_gain) * full:
            failures.append(f"its graphs have {size} bytes, FP32's {full}: not {gate.min_gain:.0%} smaller")
        return failures


def fallen(what: str, before: Scores, after: Scores, gate: GateRecipe) -> list[str]:
    """In words, what `after` lost against `before` beyond the gate's limits; empty = nothing."""
    found = []
    if not after.f1_macro >= gate.macro_f1_ratio * before.f1_macro:
        found.append(
            f"{what}: macro-F1 {before.f1_macro:.4f} -> {after.f1_macro:.4f}, below {gate.macro_f1_ratio:.0%} of FP32"
        )
    for name, one in before.classes.items():
        now = after.classes[name].f1 if name in after.classes else float("nan")
        if one.support and not one.f1 - now <= gate.class_drop:
            found.append(f"{what}: {name}: F1 {one.f1:.4f} -> {now:.4f}, more than {gate.class_drop:.2f} down")
    return found


def _refuse_poor_reference(found: Evaluation, labels: Sequence[str], gate: GateRecipe) -> None:
    """FP32 itself must be worth comparing with: better than always saying the commonest label, and at its floors."""
    truth = [one.truth for one in found.predictions]
    commonest = max(truth.count(label) for label in set(truth)) / len(truth)
    swapped = _swapped(found, labels)
    if found.model.accuracy <= commonest:
        raise GateRefused(
            f"evaluate: FP32 itself is right in {found.model.accuracy:.4f} of {len(truth)} moments, always saying the "
            f"commonest label in {commonest:.4f}: check the labels and the scaling of inputs{swapped}"
        )
    if found.scores.accuracy < gate.accuracy or found.scores.f1_macro < gate.macro_f1:
        raise GateRefused(
            f"evaluate: FP32: accuracy {found.scores.accuracy:.4f} (at least {gate.accuracy}), "
            f"macro-F1 {found.scores.f1_macro:.4f} (at least {gate.macro_f1}){swapped}"
        )


def _swapped(found: Evaluation, labels: Sequence[str]) -> str:
    """A hint where exchanging labels one for one would mend most of it."""
    from scipy.optimize import linear_sum_assignment

    table = np.array(found.model.confusion)
    rows, columns = linear_sum_assignment(table, maximize=True)
    names = found.model.confusion_labels
    better = float(table[rows, columns].sum() / table.sum())
    wrong = [(names[c], names[r]) for r, c in zip(rows, columns, strict=True) if r != c and table[r, c]]
    if better < found.model.accuracy + 0.2 or not wrong:
        return ""
    pairs = ", ".join(f"{said!r} where the data says {true!r}" for said, true in wrong[:3])
    return f"; the labels look swapped: it says {pairs} (accuracy {better:.4f} if exchanged)"


def resamples(groups: Sequence[str], count: int, seed: int) -> list[np.ndarray]:
    """Indices of `count` bootstrap resamples: of whole groups where there are at least ten, for the moments of one
    episode are not independent, else of single moments (Efron and Tibshirani 1993, chapter 8)."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [np.array(part) for part in members.values()]
    if len(parts) < 10:
        parts = [np.array([index]) for index in range(len(groups))]
    return [np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))]) for _ in range(count)]


def bootstrap(truth: Sequence[str], answers: Sequence[str], draws: Sequence[np.ndarray]) -> np.ndarray:
    """[draws] macro-F1 of each resample."""
    names = {name: index for index, name in enumerate(sorted({*truth, *answers}))}
    right = np.array([names[name] for name in truth])
    said = np.array([names[name] for name in answers])
    return np.array([f1_score(right[draw], said[draw], average="macro", zero_division=0) for draw in draws])


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(round(value, 6), round(float(low), 6), round(float(high), 6))


def _write_candidate(
    job: Job,
    trial: Bundle,
    judge: Judge,
    plan: Mapping[str, str],
    found: Sensitivity,
    report: Mapping[str, bytes],
    notes: Sequence[str],
) -> str:
    """The bundle as it will ship: graphs of precisions that passed, engines of the plan, and all reports."""
    shipped = {precision for one in judge.judged if one.passed for precision in one.plan.values()} | {"fp32"}
    manifest = trial.manifest
    stages = tuple(
        msgspec.structs.replace(
            stage, files={p: f for p, f in stage.files.items() if p in shipped or p == plan[stage.name]}
        )
        for stage in manifest.stages
    )
    graphs = {file for stage in stages for file in stage.files.values()}
    files = {name: trial.read(name) for name in manifest.files if not name.startswith("stages/") or name in graphs}
    engines = []
    for engine in msgspec.json.decode((job.work / "engines" / ENGINES).read_bytes(), type=list[EngineFile]):
        if plan[engine.stage] == engine.precision:
            engines.append(engine)
            files[engine.file] = (job.work / engine.file).read_bytes()
    layout, split = layout_of_recipe(job.recipe), job.recipe.evaluate_split
    pipeline = Pipeline(trial)
    try:
        ablation = ev.ablate(pipeline, layout, job.data, split)
    finally:
        pipeline.close()
    exact = judge.reference.evaluation
    ev.show(job.console, trial, split, exact)
    ev.show_ablation(job.console, ablation)
    files |= {f"report/{name}": data for name, data in report.items()}
    files["report/evaluation.json"] = ev.as_json(trial, split, exact, ablation)
    files["report/evaluation.md"] = ev.as_markdown(trial, split, exact, ablation)
    files["report/gate.json"] = msgspec.json.format(msgspec.json.encode([judge.judged, notes, found]), indent=1)
    files["report/calibration.md"] = (job.work / "calibration" / "coverage.md").read_bytes()
    ranges = (job.work / "calibration" / "ranges.json").read_bytes()
    best = next(one for one in judge.judged if one.plan == dict(plan))
    figures = {
        "accuracy": exact.scores.accuracy,
        "f1_macro": exact.scores.f1_macro,
        "f1_weighted": exact.scores.f1_weighted,
        "model_accuracy": exact.model.accuracy,
        "model_f1_macro": exact.model.f1_macro,
        "plan_f1_macro": best.decisions_macro_f1,
        "plan_model_f1_macro": best.macro_f1.value,
        "plan_model_f1_macro_difference": best.difference.value,
    }
    import hashlib

    candidate = write_bundle(
        job.work / "candidate",
        msgspec.structs.replace(
            manifest,
            stages=stages,
            precision=dict(manifest.precision) | {"tensorrt": dict(plan)},
            engines=tuple(engines),
            figures={name: round(value, 6) for name, value in figures.items()},
            training=dict(manifest.training) | {"calibration_sha256": hashlib.sha256(ranges).hexdigest()},
        ),
        files,
    )
    return candidate.digest


def show(console: Console, judged: Sequence[Judged]) -> None:
    """Print the gate's table."""
    table = Table(title="gate: model alone, 95 % bootstrap intervals")
    for name in ("plan", "macro-F1", "difference to FP32", "decisions", "kB", "verdict"):
        table.add_column(name, justify="left" if name in ("plan", "verdict") else "right")
    for one in judged:
        verdict = "reference" if one.name == "fp32" else "passed" if one.passed else one.failures[0]
        table.add_row(
            one.name, _words(one.macro_f1), _words(one.difference), f"{one.decisions_macro_f1:.4f}",
            f"{one.bytes / 1024:.0f}", verdict,
        )  # fmt: skip
    console.print(table)


def _words(one: Interval) -> str:
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"


def as_markdown(judged: Sequence[Judged], notes: Sequence[str], found: Sensitivity) -> str:
    """report/gate.md."""
    lines = [
        "# Gate", "", "The model alone on the evaluation split, with 95 % bootstrap intervals; reduced precision is",
        "computed by ONNX Runtime with every rounding that a GPU makes.", "",
        "| plan | precision | macro-F1 | difference to FP32 | decisions' macro-F1 | kB | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for one in judged:
        plan = ", ".join(f"{stage} {precision}" for stage, precision in one.plan.items())
        verdict = "reference" if one.name == "fp32" else "passed" if one.passed else "; ".join(one.failures)
        lines.append(
            f"| {one.name} | {plan} | {_words(one.macro_f1)} | {_words(one.difference)} "
            f"| {one.decisions_macro_f1:.4f} | {one.bytes / 1024:.0f} | {verdict} |"
        )
    lines += ["", "## How the plan was chosen", "", *(f"- {note}" for note in notes), "", "## Per class (F1)", ""]
    lines += [f"| label | {' | '.join(one.name for one in judged)} |", "| --- |" + " ---: |" * len(judged)]
    for label in judged[0].classes:
        cells = " | ".join(f"{one.classes[label][2]:.3f}" if label in one.classes else "" for one in judged)
        lines.append(f"| {label} | {cells} |")
    lines += [
        "", "## Sensitivity", "", f"One part at a time in another precision, over {found.moments} moments.", "",
        "| stage | part | precision | macro-F1 | loss | logits off by | kB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in found.rows:
        lines.append(
            f"| {row.stage} | {row.block} | {row.precision} | {row.macro_f1:.4f} | {row.loss:+.4f} "
            f"| {row.logits_error:.2%} | {row.bytes / 1024:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(judged: Sequence[Judged], found: Sensitivity) -> bytes:
    """PNG: macro-F1 with intervals against size, and the blocks by what they cost."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for one in judged:
        value = one.macro_f1
        below, above = max(0.0, value.value - value.low), max(0.0, value.high - value.value)
        left.errorbar(one.bytes / 1024, value.value, yerr=[[below], [above]], fmt="o", capsize=4, label=one.name)
    left.set(xlabel="graphs, kB", ylabel="macro-F1 (95 % interval)", title="What each plan keeps")
    left.legend()
    rows = [row for row in found.rows if row.stage != "(all stages)"]
    names = [f"{row.stage} {row.block} {row.precision}" for row in rows]
    right.barh(range(len(rows)), [100 * row.logits_error for row in rows], color="#0072b2")
    right.set_yticks(range(len(rows)), names, fontsize=6)
    right.invert_yaxis()
    right.set(xlabel="logits off by, %", title="What each part costs")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
