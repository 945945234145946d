"""What is left when inputs go missing, grow old or go bad: through the device's own admission, alignment and policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from build_engines.evaluation import figures
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.evaluation.lateness import late
from build_engines.evaluation.page import Cells, Section
from build_engines.heads.prediction import Prediction
from build_engines.modalities import modality_of
from build_engines.modalities.faults import Fault
from build_engines.progress import progress
from calibration.moments import LabelledSet
from calibration.spread import many, spread
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import max_age_ns

STEPS = (0.5, 1.0, 2.0)
"""Staleness in maximum ages."""
CONFIDENT = 0.8
"""A wrong decision is a confident one from here."""
MOST_WRONG = 0.02
"""Largest share of wrong confident decisions when everything is stale."""
ALL = "everything"
_ALONE = (
    "These moments stand alone: a frozen camera shows one picture of another label, and nothing repeats. The device's "
    "check for frozen cameras (`frozen_after`) counts repeats and cannot see that; the row says what the model makes "
    "of a picture that does not belong to its moment."
)
COLUMNS = ("model figure", "policy figure", "safe", "wrong", "wrong, sure")
GOOD_IS_HIGH = (True, True, None, False, False)
Reader = Callable[[], Iterator[LabelledSet]]


class Cell(Struct, frozen=True):
    """One way of going bad, and what is left.

    The truth is what is right with everything known; where a late stream has become too old, what is right without it.
    """

    kind: str
    """`present` (of the modalities only these), `late` or `fault`."""
    name: str
    figure: float
    """Of the model alone, asked even where the policy would not."""
    accuracy: float
    decisions_figure: float
    decisions_accuracy: float
    safe: float
    """Share of decisions that are safe ones: blocked or abstained."""
    wrong: float
    """Share of all decisions that the model answered wrongly."""
    wrong_confident: float
    """The part of those with a confidence of at least 0.8."""


class Matrix(Struct, frozen=True):
    """The degradation matrix of a bundle on one split."""

    count: int
    majority: str
    """The commonest label; what always saying it scores:"""
    majority_figure: float
    majority_accuracy: float
    cells: tuple[Cell, ...]
    verdicts: tuple[str, ...]
    """The two checks, in words."""
    passed: bool
    alone: bool = False
    """Every moment stands by itself, without others before it."""
    figure_name: str = "macro-F1"
    figure_key: str = "f1_macro"
    """What the figure is called in files."""

    def subsets(self) -> dict[str, dict[str, float]]:
        """Modalities present to the model's scores."""
        return {
            cell.name: {"accuracy": cell.accuracy, self.figure_key: cell.figure}
            for cell in self.cells
            if cell.kind == "present"
        }

    def points(self) -> list[tuple[str, float, float]]:
        """For each cell, in words what kind, the share answered by the model, and the share of that wrong."""
        titles = {"present": "a modality missing", "late": "late", "fault": "bad input"}
        whole = self.cells[0]
        return [
            (titles[cell.kind], 1.0 - cell.safe, cell.wrong / (1.0 - cell.safe))
            for cell in self.cells
            if cell is not whole and cell.safe < 1.0
        ]

    def section(self) -> Section:
        """The matrix as a part of a report."""
        text = (
            f"Over {self.count} moments; the truth is what is right with everything known, but where a late stream has "
            "become too old, what the data says is right without it. Always saying "
            f"{self.majority} scores a {self.figure_name} of {self.majority_figure:.3f} and an accuracy of "
            f"{self.majority_accuracy:.3f}.",
            "A late stream arrives so many of its maximum ages after it was captured while the others are fresh. "
            f"Model: {self.figure_name} of the model alone, asked even where the policy would not. Policy: the same "
            "after the policy. Safe: share of safe decisions, blocked or abstained. Wrong, and wrong with a confidence "
            "of at least "
            f"{CONFIDENT}: share of all decisions.",
            *((_ALONE,) if self.alone and any(cell.name.endswith(" frozen") for cell in self.cells) else ()),
            *(f"{line[0].upper()}{line[1:]}." for line in self.verdicts),
        )
        rows = tuple(
            (f"{cell.kind}: {cell.name}", *(f"{value:.3f}" for value in _figures(cell))) for cell in self.cells
        )
        return Section(
            "When inputs go missing, old or bad", text, Cells(("inputs", *COLUMNS), rows), "degradation.png",
            "Heat map of the table above",
        )  # fmt: skip

    def picture(self) -> bytes:
        """PNG of the matrix."""
        kinds = [cell.kind for cell in self.cells]
        breaks = [index for index in range(1, len(kinds)) if kinds[index] != kinds[index - 1]]
        # Where every decision is the safe one there is no policy's F1 to be good or bad.
        values = [[*_figures(cell)] for cell in self.cells]
        for row, cell in zip(values, self.cells, strict=True):
            row[1] = float("nan") if cell.safe == 1.0 else row[1]
        return figures.heat_map(
            [f"{cell.kind}: {cell.name}" for cell in self.cells],
            [name.replace(" ", "\n", 1) for name in COLUMNS],
            values,
            GOOD_IS_HIGH,
            "What is left when inputs go missing, old or bad",
            breaks,
        )

    def table(self) -> Table:
        """For the terminal."""
        table = Table(
            title=f"degradation over {self.count} moments; majority {self.figure_name} {self.majority_figure:.3f}"
        )
        for name in ("inputs", *COLUMNS):
            table.add_column(name, justify="left" if name == "inputs" else "right", no_wrap=name != "inputs")
        before = ""
        for cell in self.cells:
            if before and before != cell.kind:
                table.add_section()
            before = cell.kind
            table.add_row(f"{cell.kind}: {cell.name}", *(f"{value:.3f}" for value in _figures(cell)))
        return table


def _figures(cell: Cell) -> tuple[float, ...]:
    return cell.figure, cell.decisions_figure, cell.safe, cell.wrong, cell.wrong_confident


def degrade(pipeline: Pipeline, read: Reader, console: Console | None = None) -> Matrix:
    """Measure every cell. `read` gives the labelled moments, afresh each time; a progress bar goes to `console`."""
    plan = list(trials(pipeline))
    whole = evaluate(pipeline, read())
    cells: list[Cell] = []
    # Each process does whole trials, where that is worth opening engines in each.
    alone = 2 if many(len(whole.predictions)) else len(plan) + 1
    with progress(console or Console(quiet=True), "degrade", len(plan)) as advance:
        for cell in spread(_Measuring(pipeline, read), range(len(plan)), alone=alone, piece=1):
            cells.append(cell)
            advance(1, f"{cell.kind}: {cell.name}")
    constant, always = whole.pairs().constant()
    verdicts, passed = judged(cells, always.figure, whole.build.figure)
    groups = [prediction.group for prediction in whole.predictions]
    return Matrix(
        whole.scores.count, constant, always.figure, always.accuracy, tuple(cells), tuple(verdicts), passed,
        alone=len(set(groups)) == len(groups), figure_name=whole.build.figure,
        figure_key=next(name for name, value in always.summary.items() if name != "accuracy"),
    )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What is done to the inputs for one cell."""

    kind: str
    name: str
    drop: tuple[str, ...] = ()
    """Streams that never arrive."""
    delayed: tuple[str, ...] = ()
    fault: Fault | None = None


def trials(pipeline: Pipeline) -> Iterator[Trial]:
    """Every way of going bad that a bundle's streams know, in the order of the matrix."""
    manifest = pipeline.bundle.manifest
    modalities = manifest.presence or manifest.streams_read
    for size in range(len(modalities), 0, -1):
        for present in combinations(modalities, size):
            yield Trial("present", " + ".join(present), drop=tuple(name for name in modalities if name not in present))
    for name in modalities:
        for step in STEPS:
            yield _late(pipeline, name, (name,), step)
    if len(modalities) > 1:
        for step in STEPS:
            yield _late(pipeline, ALL, modalities, step)
    for name in modalities:
        spec = manifest.streams[name]
        for fault_name, fault in modality_of(spec).faults(name, spec, manifest.head.per_word).items():
            yield Trial("fault", f"{name} {fault_name}", fault=fault)


def _late(pipeline: Pipeline, label: str, names: tuple[str, ...], step: float) -> Trial:
    streams = pipeline.streams
    delays = {name: int(step * max_age_ns(streams[name])) for name in names}
    return Trial("late", f"{label} {step:g}x", delayed=names, fault=lambda moments: late(moments, delays, streams))


@dataclass(frozen=True)
class _Measuring:
    """The job of measuring trials of the plan, by their numbers."""

    pipeline: Pipeline
    read: Reader

    def __call__(self) -> Callable[[Iterator[int]], Iterator[Cell]]:
        plan = list(trials(self.pipeline))
        return lambda numbers: (_measure(self.pipeline, self.read, plan[number]) for number in numbers)


def measured(pipeline: Pipeline, read: Reader, trial: Trial) -> tuple[Evaluation, Evaluation]:
    """What is decided in one trial, and what the model says alone, asked even where the policy would not."""

    def tried(blocking: bool) -> Evaluation:
        moments = read() if trial.fault is None else trial.fault(read())
        return evaluate(pipeline, moments, trial.drop, blocking, unknown=trial.delayed)

    decided = tried(blocking=True)
    # Where nothing was blocked, the model gave all the answers already.
    whole = all(prediction.source == "model" or prediction.probabilities for prediction in decided.predictions)
    return decided, decided if whole else tried(blocking=False)


def wrong_answers(decided: Evaluation) -> list[Prediction]:
    """What the model answered, and wrongly."""
    return [
        prediction
        for prediction in decided.predictions
        if prediction.source == "model" and not decided.build.is_right(decided.head, prediction)
    ]


def _measure(pipeline: Pipeline, read: Reader, trial: Trial) -> Cell:
    return _cell(trial.kind, trial.name, *measured(pipeline, read, trial))


def _cell(kind_of: str, name: str, decided: Evaluation, model_alone: Evaluation) -> Cell:
    count = len(decided.predictions)
    wrong = wrong_answers(decided)
    return Cell(
        kind_of, name, model_alone.model.figure, model_alone.model.accuracy,
        decided.scores.figure, decided.scores.accuracy,
        sum(prediction.source == "safe" for prediction in decided.predictions) / count,
        len(wrong) / count,
        sum(prediction.confidence >= CONFIDENT for prediction in wrong) / count,
    )  # fmt: skip


def judged(cells: Sequence[Cell], majority: float, figure: str) -> tuple[list[str], bool]:
    """The two checks in words, and whether both are passed."""
    below = [cell for cell in cells if cell.kind == "present" and cell.figure < majority]
    stale = [cell for cell in cells if cell.kind == "late" and cell.name.endswith(f"{STEPS[-1]:g}x")]
    everything = next((cell for cell in stale if cell.name.startswith(ALL)), stale[-1])
    worst = max(stale, key=lambda cell: cell.wrong_confident)
    lines = [
        f"below the {figure} of always saying the same: {', '.join(cell.name for cell in below)}"
        if below
        else f"no subset of the modalities falls below the {figure} of always saying the same",
        f"everything at twice its maximum age: {everything.wrong_confident:.1%} wrong confident decisions (at most "
        f"{MOST_WRONG:.0%}), {everything.safe:.1%} safe; the worst single stream so: {worst.name}, "
        f"{worst.wrong_confident:.1%}",
    ]
    return lines, not below and everything.wrong_confident <= MOST_WRONG


def limited(read: Reader, most: int) -> Reader:
    """At most `most` moments, evenly spread: every n-th of single moments, every n-th whole group of recordings."""
    groups: dict[str, int] = {}
    for moment in read():
        groups[moment.group] = groups.get(moment.group, 0) + 1
    step = -(-sum(groups.values()) // most)
    chosen = list(groups)[::step]
    return _Some(read, frozenset(chosen))


@dataclass(frozen=True)
class _Some:
    read: Reader
    groups: frozenset[str]

    def __call__(self) -> Iterator[LabelledSet]:
        return (moment for moment in self.read() if moment.group in self.groups)
