"""The feedback loop: from worst labels and weakest stages to a next step, kept only where the split proves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from build_engines.evaluation.degrade import Reader
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.evaluation.page import Cells, Section, as_markdown
from build_engines.heads import one_label_build
from build_engines.heads.intervals import Interval, bootstrap, interval, resamples
from build_engines.heads.labelled import LabelHead
from build_engines.heads.metrics import score
from build_engines.improvement.policy_fit import (
    Answers,
    fitted_thresholds,
    out_of_fold_decisions,
    out_of_fold_losses,
)
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline

DRAWS = 1000
WORST = 3
HIGHER = {"int8": "fp16", "fp16": "fp32"}
TARGET = "tensorrt"


class Attempt(Struct, frozen=True):
    """One step that was tried."""

    step: str
    what: str
    figure: str
    """What was compared."""
    before: float
    after: float
    gain: Interval
    """Of the figure, so that more is better; paired."""
    kept: bool

    @property
    def words(self) -> str:
        """In a sentence."""
        verdict = "kept" if self.kept else "not kept: its interval holds 0 or less"
        span = f"gain {self.gain.value:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        return f"{self.step}: {self.what}: {self.figure} {self.before:.4f} -> {self.after:.4f}, {span}; {verdict}"


class Improvement(Struct, frozen=True):
    """What was tried, and what is left of it."""

    name: str
    split: str
    count: int
    worst: tuple[str, ...]
    """The labels with the lowest F1 before, the worst first."""
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    """Steps that could not be tried, and why."""
    settings: str
    """What was kept, as lines for the recipe; empty if nothing was."""

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=f"improve {self.name}: {self.count} moments of {self.split}")
        for column in ("step", "what", "figure", "before", "after", "gain", "kept"):
            table.add_column(column)
        for row in self._rows():
            table.add_row(*row)
        return table

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                attempt.step, attempt.what, attempt.figure, f"{attempt.before:.4f}", f"{attempt.after:.4f}",
                f"{attempt.gain.value:+.4f} [{attempt.gain.low:+.4f}, {attempt.gain.high:+.4f}]",
                "yes" if attempt.kept else "no",
            )
            for attempt in self.attempts
        ]  # fmt: skip

    def markdown(self) -> str:
        """improve.md."""
        lead = [f"worst labels: {', '.join(self.worst)}", *self.notes]
        columns = ("step", "what", "figure", "before", "after", "gain, 95 % interval", "kept")
        text = (
            "Temperature and thresholds are fitted by cross-validation and judged on the folds that were left out; "
            "a step is kept only if the interval of its gain lies above 0."
        )
        sections = [Section("What was tried", (text,), Cells(columns, tuple(self._rows())))]
        if self.settings:
            sections.append(Section("What was kept", ("```toml\n" + self.settings + "```",)))
        return as_markdown(f"Improve {self.name} on {self.split}", lead, sections)

    def files(self) -> dict[str, bytes]:
        """File name to contents."""
        return {
            "improve.json": msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n",
            "improve.md": self.markdown().encode(),
            "improve.toml": self.settings.encode(),
        }


@dataclass
class Loop:
    """One go at a bundle. Steps add to `attempts`; what is kept changes `bundle`. One thread."""

    bundle: Bundle
    read: Reader
    split: str
    seed: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, list[str]] = field(default_factory=dict)
    """Table of the recipe to its changed lines."""

    def __post_init__(self) -> None:
        head = self.bundle.manifest.head
        if not isinstance(head, LabelHead):
            raise UserError(f"improve: a {head.kind} head has neither thresholds nor confidence per label to improve")
        self.head = head
        self.result = self.evaluated(self.bundle)
        clusters = [prediction.cluster or prediction.group for prediction in self.result.predictions]
        self._draws = resamples(clusters, DRAWS, self.seed)
        scores = self.result.scores
        seen = [name for name, count in scores.support.items() if count]
        self.worst = tuple(sorted(seen, key=scores.parts.__getitem__)[:WORST])

    def evaluated(self, bundle: Bundle, plan: dict[str, str] | None = None) -> Evaluation:
        """Every moment decided by `bundle`."""
        pipeline = Pipeline(bundle, plan=plan)
        try:
            return evaluate(pipeline, self.read())
        finally:
            pipeline.close()

    def temperature(self) -> float:
        """Fit the temperature anew; kept if the out-of-fold log-likelihood is proven better. Gives the one to use."""
        answers = self._answers()
        old = answers.policy.temperature
        if len(set(answers.clusters)) < 2:
            return old
        before, after = answers.losses(old), out_of_fold_losses(answers)
        new = answers.fitted_temperature(np.arange(len(answers.truth)))
        draws = resamples(answers.clusters, DRAWS, self.seed)
        gains = np.array([(before - after)[draw].mean() for draw in draws])
        gain = interval(float((before - after).mean()), gains)
        proven = gain.low > 0
        self.attempts.append(
            Attempt(
                "temperature", f"{old:g} -> {new:g}", "negative log-likelihood", float(before.mean()),
                float(after.mean()), gain, proven,
            )
        )  # fmt: skip
        if proven:
            self._with_policy(temperature=new)
            self.notes.append("the temperature goes into the bundle; every build fits it anew by itself")
        return new if proven else old

    def thresholds(self, temperature: float) -> None:
        """Choose thresholds per label; kept if the out-of-fold decisions are proven better."""
        answers = self._answers()
        start = dict(answers.policy.thresholds)
        truth = answers.truth
        before = [str(label) for label in answers.decided(temperature, start)]
        after = [str(decision) for decision in out_of_fold_decisions(answers, temperature, start)]
        chosen = fitted_thresholds(answers, temperature, np.arange(len(truth)), start)
        change = ", ".join(f"{name} {value:g}" for name, value in chosen.items()) or "none better than those there are"
        draws = resamples(answers.clusters, DRAWS, self.seed)
        proven = self._judge("thresholds", change, truth, before, after, draws) and chosen != start
        if proven:
            self._with_policy(thresholds=chosen)
            lines = ", ".join(f"{msgspec.json.encode(name).decode()} = {value:g}" for name, value in chosen.items())
            self.settings.setdefault("decision", []).append(f"thresholds = {{ {lines} }}")

    def precision_plan(self) -> None:
        """Give the stage that costs most its precision back; kept if the model's answers are proven better."""
        manifest = self.bundle.manifest
        plan = dict(manifest.precision.get(TARGET, {}))
        files = {stage.name: stage.files for stage in manifest.stages}
        reduced = [name for name, precision in plan.items() if precision in HIGHER]
        if not reduced:
            self.notes.append("precision plan: nothing runs in a reduced precision")
            return
        truth = [prediction.truth for prediction in self.result.predictions]
        base = self._own(self.evaluated(self.bundle, plan))
        tried: dict[str, tuple[float, list[str]]] = {}
        for name in reduced:
            higher = HIGHER[plan[name]] if HIGHER[plan[name]] in files[name] else "fp32"
            raised = plan | {name: higher}
            answers = self._own(self.evaluated(self.bundle, raised))
            tried[name] = (score(truth, answers, self.head.labels).f1_macro, answers)
        weakest = max(tried, key=lambda name: tried[name][0])
        higher = HIGHER[plan[weakest]] if HIGHER[plan[weakest]] in files[weakest] else "fp32"
        change = f"{weakest} {plan[weakest]} -> {higher}"
        if self._judge("precision plan", change, truth, base, tried[weakest][1], self._draws):
            precision = dict(manifest.precision) | {TARGET: plan | {weakest: higher}}
            engines = tuple(engine for engine in manifest.engines if engine.stage != weakest)
            self._replace(msgspec.structs.replace(manifest, precision=precision, engines=engines))
            left = [name for name, precision in plan.items() if precision == "int8" and name != weakest]
            self.settings.setdefault("quantise", []).append(f"stages = {msgspec.json.encode(left).decode()}")

    def model(self, bundle: Bundle, change: str, line: str) -> bool:
        """Judge another model of the same labels, trained without this split; kept if its decisions are better."""
        result = self.evaluated(bundle)
        truth = [prediction.truth for prediction in self.result.predictions]
        before, after = self._own(self.result), self._own(result)
        if not self._judge("class weights", change, truth, before, after, self._draws):
            return False
        self.bundle, self.result = bundle, result
        self.settings.setdefault("train", []).append(line)
        self.notes.append("class weights: the graphs are new; run the build with these settings for a plan and a gate")
        return True

    def _own(self, result: Evaluation) -> list[str]:
        """The model's own answers."""
        build = one_label_build(self.head)
        return [build.own_label(self.head, prediction) for prediction in result.predictions]

    def _judge(
        self, step: str, change: str, truth: Sequence[str], before: Sequence[str], after: Sequence[str],
        draws: Sequence[np.ndarray],
    ) -> bool:  # fmt: skip
        labels = self.head.labels
        values = [score(truth, answers, labels).f1_macro for answers in (before, after)]
        gain = interval(values[1] - values[0], bootstrap(truth, after, draws) - bootstrap(truth, before, draws))
        proven = gain.low > 0
        self.attempts.append(Attempt(step, change, "macro-F1", values[0], values[1], gain, proven))
        return proven

    def _answers(self) -> Answers:
        return Answers.of(self.head, self.bundle.manifest.decision, self.result.predictions)

    def _with_policy(self, **changes: object) -> None:
        manifest = self.bundle.manifest
        policy = msgspec.structs.replace(manifest.decision, **changes)
        self._replace(msgspec.structs.replace(manifest, decision=policy))
        self.result = self.evaluated(self.bundle)

    def _replace(self, manifest: object) -> None:
        # The files are the same and verified; only what the manifest says of them changes.
        self.bundle = Bundle(self.bundle.path, msgspec.convert(manifest, type(self.bundle.manifest)), "", None)

    def outcome(self) -> Improvement:
        """What was tried."""
        lines = [f"[{table}]\n" + "\n".join(lines) + "\n" for table, lines in self.settings.items()]
        manifest = self.bundle.manifest
        return Improvement(
            manifest.name, self.split, len(self.result.predictions), self.worst, tuple(self.attempts),
            tuple(self.notes), "\n".join(lines),
        )  # fmt: skip


def show(console: Console, improvement: Improvement) -> None:
    """Print what was tried."""
    console.print(f"worst labels: {', '.join(improvement.worst)}", highlight=False)
    for line in (*(attempt.words for attempt in improvement.attempts), *improvement.notes):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if improvement.settings:
        console.print(improvement.settings, highlight=False, markup=False, soft_wrap=True)
