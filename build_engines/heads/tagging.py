"""What a tagging head is worth: word by word as scikit-learn counts, and by exact spans as CoNLL's evaluation does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.table import Table
from sklearn.metrics import precision_recall_fscore_support

from build_engines.heads.kind import Floats, HeadBuild, Loss, Pairs, Part
from build_engines.heads.labelled import LabelPairs, factors, label_scores
from build_engines.heads.metrics import ClassScore
from build_engines.heads.prediction import Prediction
from build_engines.heads.softmax import softmax_fitted
from build_engines.recipe import TrainRecipe
from calibration.moments import LabelledSet
from calibration.samples import CalibrationSample
from edge_runtime.errors import UserError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.tagging import TaggingHead, best_path

if TYPE_CHECKING:
    from torch import Tensor


OUTSIDE = "O"
"""The tag of a word that belongs to no entity; the first label of a tagging head."""


class TagReport(Struct, frozen=True):
    """Scores of tagged sentences. Averages over tags are those of scikit-learn's classification report."""

    tags: dict[str, ClassScore]
    """Every tag that occurs, by itself; the outside tag last."""
    micro: ClassScore
    """Over all tags, outside among them: the share of words that are right."""
    micro_named: ClassScore
    """The same without the outside tag, which is most of the words."""
    macro: ClassScore
    weighted: ClassScore
    spans: dict[str, ClassScore]
    """Entities found with exactly their words and their type, by type (seqeval)."""
    spans_micro: ClassScore
    spans_macro: ClassScore
    sentences: int


def fitted(tags: Sequence[str], words: int, outside: str = OUTSIDE) -> tuple[str, ...]:
    """`tags` with exactly one for each of `words`: a word without an answer counts as outside."""
    return (*tags[:words], *[outside] * (words - len(tags)))


def token_pairs(predictions: Iterable[Prediction], outside: str = OUTSIDE) -> tuple[list[str], list[str]]:
    """The right and the given tag of every word of all sentences."""
    truth: list[str] = []
    answers: list[str] = []
    for prediction in predictions:
        truth += prediction.truth_tags
        answers += fitted(prediction.tags, len(prediction.truth_tags), outside)
    return truth, answers


def token_rows(
    tags: Sequence[Sequence[str]], outputs: Sequence[NDArray[np.float32]]
) -> tuple[list[str], NDArray[np.float32]]:
    """The tag and the logits [words, labels] of every word that the model read; `outputs` [1, W, labels] each."""
    rows = [output[0, : len(right)] for right, output in zip(tags, outputs, strict=True)]
    truth = [tag for right, row in zip(tags, rows, strict=True) for tag in right[: len(row)]]
    return truth, np.concatenate(rows)


def report(truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], outside: str = OUTSIDE) -> TagReport:
    """Scores of `answers` against `truth`: a sentence's tags each, of equal length."""
    from seqeval.metrics import classification_report

    right = [tag for sentence in truth for tag in sentence]
    predicted = [tag for sentence in answers for tag in sentence]
    named = sorted({*right, *predicted} - {outside}, key=lambda tag: (tag[2:], tag))
    order = [*named, outside]
    precision, recall, f1, support = precision_recall_fscore_support(
        right, predicted, labels=order, average=None, zero_division=0
    )

    def average(kind: str, labels: Sequence[str]) -> ClassScore:
        if not labels:
            return ClassScore(0.0, 0.0, 0.0, 0)
        values = precision_recall_fscore_support(right, predicted, labels=labels, average=kind, zero_division=0)
        return ClassScore(float(values[0]), float(values[1]), float(values[2]), sum(tag in labels for tag in right))

    spans = {}
    if named:
        by_type = classification_report(
            [list(tags) for tags in truth], [list(tags) for tags in answers], output_dict=True, zero_division=0
        )
        spans = {
            name: ClassScore(
                float(scores["precision"]), float(scores["recall"]), float(scores["f1-score"]), int(scores["support"])
            )
            for name, scores in by_type.items()
        }
    nothing = ClassScore(0.0, 0.0, 0.0, 0)
    spans.pop("weighted avg", None)
    return TagReport(
        tags={
            tag: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, tag in enumerate(order)
        },
        micro=average("micro", order),
        micro_named=average("micro", named),
        macro=average("macro", order),
        weighted=average("weighted", order),
        spans_micro=spans.pop("micro avg", nothing),
        spans_macro=spans.pop("macro avg", nothing),
        spans=spans,
        sentences=len(truth),
    )


def report_of(predictions: Sequence[Prediction], outside: str = OUTSIDE) -> TagReport:
    """The report of a tagging bundle's decisions."""
    truth = [prediction.truth_tags for prediction in predictions]
    return report(
        truth, [fitted(prediction.tags, len(prediction.truth_tags), outside) for prediction in predictions], outside
    )


def cut_words(predictions: Sequence[Prediction]) -> str:
    """In words: the sentences that were longer than what the model reads."""
    cut = [prediction for prediction in predictions if (prediction.reason or "").startswith("only the first")]
    return f"sentences longer than the model reads: {len(cut)} of {len(predictions)}"


def _sections(report: TagReport) -> list[tuple[str, list[tuple[str, ClassScore]]]]:
    """The report's parts in the order they are read: title, and rows."""
    averages = [
        ("micro avg", report.micro),
        ("micro avg, without outside", report.micro_named),
        ("macro avg", report.macro),
        ("weighted avg", report.weighted),
    ]
    spans = [*report.spans.items(), ("micro avg", report.spans_micro), ("macro avg", report.spans_macro)]
    return [("tag", [*report.tags.items(), *averages]), ("entity, exact span", spans)]


def tables(report: TagReport, title: str) -> list[Table]:
    """A row per tag and the averages below; then the same for entities."""
    drawn: list[Table] = []
    for name, rows in _sections(report):
        table = Table(title=title if not drawn else f"{title}: entities")
        table.add_column(name)
        for column in ("precision", "recall", "f1-score", "support"):
            table.add_column(column, justify="right")
        for index, (label, row) in enumerate(rows):
            table.add_row(label, *_cells(row), end_section=index + 1 < len(rows) and rows[index + 1][0] == "micro avg")
        drawn.append(table)
    return drawn


def cells(report: TagReport) -> list[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """The same as columns and rows of words."""
    return [
        ((name, "precision", "recall", "f1-score", "support"), tuple((label, *_cells(row)) for label, row in rows))
        for name, rows in _sections(report)
    ]


def headline(report: TagReport) -> str:
    """The report in a line."""
    return (
        f"token micro-F1 {report.micro.f1:.4f} (without outside {report.micro_named.f1:.4f}), exact-span entity F1 "
        f"{report.spans_micro.f1:.4f} over {report.spans_micro.support} entities in {report.sentences} sentences"
    )


def _cells(score: ClassScore) -> tuple[str, str, str, str]:
    return f"{score.precision:.4f}", f"{score.recall:.4f}", f"{score.f1:.4f}", str(score.support)


class TaggingBuild(HeadBuild[TaggingHead]):
    """Words are judged one by one; a decision is right where all of a sentence's are."""

    part = "tag"
    judged = "words"
    layout = "ner"

    def outputs(self, head: TaggingHead) -> int:
        return len(head.labels)

    def truth(self, head: TaggingHead, name: str, moment: LabelledSet) -> NDArray[np.generic]:
        raise UserError("a tagging head learns from tagged sentences; they are of the layout ner")

    def loss(self, head: TaggingHead, counts: Floats, plan: TrainRecipe) -> Loss:
        from build_engines.heads.training import SoftmaxLoss

        return SoftmaxLoss(counts, plan.class_balance, plan.label_smoothing, factors(head.labels, plan))

    def trained_scores(self, head: TaggingHead, output: Tensor, truth: Tensor) -> tuple[float, float]:
        return label_scores(truth, output.argmax(1).numpy())

    def fitted(self, head: TaggingHead, output: Tensor, truth: Tensor) -> dict[str, Any]:
        return softmax_fitted(output, truth)

    def pairs(self, head: TaggingHead, predictions: Sequence[Prediction], model: bool = False) -> LabelPairs:
        # No hysteresis and no threshold: decisions are the model's own answers.
        groups = [prediction.unit for prediction in predictions for _ in prediction.truth_tags]
        return LabelPairs(*token_pairs(predictions, head.labels[0]), head.labels, groups)

    def output_pairs(
        self, head: TaggingHead, policy: DecisionPolicy, name: str, samples: Sequence[CalibrationSample],
        outputs: Sequence[NDArray[np.float32]],
    ) -> tuple[LabelPairs, NDArray[np.float32]]:  # fmt: skip
        truth, logits = token_rows([sample.tags for sample in samples], outputs)
        read = [output[0, : len(sample.tags)] for sample, output in zip(samples, outputs, strict=True)]
        predicted = [head.labels[index] for rows in read for index in best_path(rows, head.labels)]
        groups = [
            sample.group
            for sample, output in zip(samples, outputs, strict=True)
            for _ in sample.tags[: output.shape[1]]
        ]
        return LabelPairs(truth, predicted, head.labels, groups), logits

    def is_right(self, head: TaggingHead, prediction: Prediction) -> bool:
        return fitted(prediction.tags, len(prediction.truth_tags), head.labels[0]) == prediction.truth_tags

    def tables(
        self, head: TaggingHead, pairs: Pairs, predictions: Sequence[Prediction], title: str
    ) -> list[Table | str]:
        return [*tables(report_of(predictions, head.labels[0]), title), cut_words(predictions)]

    def headline(self, head: TaggingHead, predictions: Sequence[Prediction]) -> list[str]:
        return [headline(report_of(predictions, head.labels[0]))]

    def sections(self, head: TaggingHead, predictions: Sequence[Prediction]) -> list[Part]:
        """Figures by word and by entity."""
        texts = (cut_words(predictions) + ".", "Found with exactly their words and their type (seqeval).")
        tabled = cells(report_of(predictions, head.labels[0]))
        return [Part(title, text, *part) for title, text, part in zip(("Tags", "Entities"), texts, tabled, strict=True)]

    def figures(self, head: TaggingHead, predictions: Sequence[Prediction]) -> dict[str, float]:
        report = report_of(predictions, head.labels[0])
        weighted = self.pairs(head, predictions).scores.f1_weighted
        return {"f1_weighted": weighted, "token_f1_micro": report.micro.f1, "span_f1_micro": report.spans_micro.f1}

    def document(self, head: TaggingHead, predictions: Sequence[Prediction]) -> dict[str, Any]:
        return {"tagging": report_of(predictions, head.labels[0])}
