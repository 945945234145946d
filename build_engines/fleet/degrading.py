"""The task of `degrade`: what is left of a recording's labelled moments when inputs go missing, grow old or go bad.

Every trial is the degrade command's own, done to one recording by itself: what is drawn (noise, which readings are
lost) begins anew with each, so that it depends neither on who does which recording nor on its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec import Struct

from build_engines.artefacts import key_of
from build_engines.code import code_digest
from build_engines.data.datasets import names_of
from build_engines.data.recordings import is_labelled, moments
from build_engines.evaluation.degrade import CONFIDENT, Cell, Matrix, judged, measured, trials, wrong_answers
from build_engines.evaluation.evaluate import Evaluation
from build_engines.fleet.looking import Pipelines, confusions
from build_engines.fleet.tally import Counts, count, total
from build_engines.heads import build_of
from build_engines.heads.counts import LabelCounts
from build_engines.heads.labelled import OneLabelBuild
from build_engines.heads.metrics import Scores, score
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording


class Part(Struct, frozen=True):
    """What one trial left."""

    decisions: int = 0
    safe: int = 0
    wrong: int = 0
    """Of the decisions that the model made."""
    sure: int = 0
    """The part of those with a confidence of at least 0.8."""
    decided: dict[str, Counts] = {}
    """Right label to what was decided."""
    model: dict[str, Counts] = {}
    """Right label to what the model says alone."""


class Degraded(Struct, frozen=True):
    """The partial of a recording, or of several."""

    parts: dict[str, Part] = {}
    """By trial, `kind: name`."""
    truths: Counts = {}
    """What is right with everything known."""
    unlabelled: int = 0


@dataclass(frozen=True)
class Degrading:
    """Every trial on the labelled moments of each recording."""

    bundle: Bundle
    dataset: DatasetRecipe = PLAIN_DATASET
    code: str = ""

    @classmethod
    def of(cls, bundle: Bundle, dataset: DatasetRecipe = PLAIN_DATASET) -> Degrading:
        """By the code that is installed. Raises UserError for a head that does not answer with one label."""
        if not isinstance(build_of(bundle.manifest.head), OneLabelBuild):
            raise UserError("degrade: over recordings, heads that answer with one label are judged; use --data")
        return cls(bundle, dataset, code_digest(("build_engines.fleet.degrading",)))

    @property
    def key(self) -> str:
        return key_of(["degrade", self.dataset, self.code], {"bundle": self.bundle.digest})

    def open(self) -> Callable[[Path], Degraded]:
        pipelines = Pipelines(self.bundle)
        return lambda path: _degraded(path, pipelines, self.dataset)


def _degraded(path: Path, pipelines: Pipelines, dataset: DatasetRecipe) -> Degraded:
    if not is_labelled(path, dataset):
        return Degraded(unlabelled=1)
    pipeline = pipelines.of(Recording(path).session)
    read = partial(moments, path, pipeline.streams, dataset)
    truths: Counts = {}
    for moment in read():
        count(truths, moment.label)
    if not truths:
        return Degraded(unlabelled=1)
    parts = {f"{trial.kind}: {trial.name}": _part(*measured(pipeline, read, trial)) for trial in trials(pipeline)}
    pipelines.settle()
    return Degraded(parts, truths)


def _part(decided: Evaluation, alone: Evaluation) -> Part:
    wrong = wrong_answers(decided)
    return Part(
        len(decided.predictions), sum(one.source == "safe" for one in decided.predictions), len(wrong),
        sum(one.confidence >= CONFIDENT for one in wrong), _whole(confusions(decided, model=False)),
        _whole(confusions(alone, model=True)),
    )  # fmt: skip


class _Table(Struct, frozen=True):
    counts: dict[str, Counts]


def _whole(by_condition: Mapping[str, dict[str, Counts]]) -> dict[str, Counts]:
    return total(map(_Table, by_condition.values())).counts


def matrix_of(bundle: Bundle, partials: Mapping[str, Degraded]) -> Matrix:
    """The degradation matrix of all recordings together: the figures of the degrade command on the same moments. Raises
    UserError where nobody has said what was right in any."""
    whole = total(partials[name] for name in sorted(partials))
    if not whole.truths:
        raise UserError("degrade: no recording says what was right; put labels beside them (drive.csv for drive.mcap)")
    labels = names_of(bundle.manifest.head)
    pipeline = Pipeline(bundle)
    try:
        plan = [(trial.kind, trial.name) for trial in trials(pipeline)]
    finally:
        pipeline.close()
    cells = [_cell(kind, name, whole.parts[f"{kind}: {name}"], labels) for kind, name in plan]
    moments_judged = sum(whole.truths.values())
    commonest = max(sorted(whole.truths), key=whole.truths.__getitem__)
    always = score([*whole.truths], [commonest] * len(whole.truths), labels, [*whole.truths.values()])
    figure = build_of(bundle.manifest.head).figure
    verdicts, passed = judged(cells, always.figure, figure)
    return Matrix(
        moments_judged, repr(commonest), always.figure, always.accuracy, tuple(cells), tuple(verdicts), passed,
        figure_name=figure,
    )  # fmt: skip


def _cell(kind: str, name: str, part: Part, labels: Sequence[str]) -> Cell:
    model, decided = _scores(part.model, labels), _scores(part.decided, labels)
    return Cell(
        kind, name, model.figure, model.accuracy, decided.figure, decided.accuracy, part.safe / part.decisions,
        part.wrong / part.decisions, part.sure / part.decisions,
    )  # fmt: skip


def _scores(table: Mapping[str, Counts], labels: Sequence[str]) -> Scores:
    return LabelCounts([table]).scores(labels)
