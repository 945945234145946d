"""What a set of decisions is worth, by scikit-learn, as plain data, a table and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from rich.table import Table
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

AVERAGES = ("micro", "macro", "weighted")


class ClassScore(Struct, frozen=True):
    """One label's scores; 0 where a ratio has no denominator."""

    precision: float
    recall: float
    f1: float
    support: int


class Scores(Struct, frozen=True):
    """All scores of one run. Macro means average over the labels that occur, in truth or among the answers."""

    count: int
    accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    f1_micro: float
    f1_weighted: float
    classes: dict[str, ClassScore]
    confusion_labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[truth][answer]"""
    averages: dict[str, ClassScore] = {}
    """`micro`, `macro` and `weighted` average to its precision, recall and F1."""


def score(truth: Sequence[str], answers: Sequence[str], labels: Sequence[str]) -> Scores:
    """Scores of `answers` against `truth`; `labels` gives the order. An answer outside `labels` counts as wrong."""
    occurring = set(truth) | set(answers)
    order = [label for label in labels if label in occurring] + sorted(occurring - set(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, answers, labels=order, average=None, zero_division=0
    )
    table = confusion_matrix(truth, answers, labels=order)
    averages = {}
    for name in AVERAGES:
        figures = precision_recall_fscore_support(truth, answers, labels=order, average=name, zero_division=0)
        averages[name] = ClassScore(float(figures[0]), float(figures[1]), float(figures[2]), len(truth))
    return Scores(
        count=len(truth),
        accuracy=float(accuracy_score(truth, answers)),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        f1_micro=averages["micro"].f1,
        f1_weighted=averages["weighted"].f1,
        classes={
            label: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, label in enumerate(order)
        },
        confusion_labels=tuple(order),
        confusion=tuple(tuple(int(cell) for cell in row) for row in table),
        averages=averages,
    )


def class_table(scores: Scores, title: str) -> Table:
    """Per-class precision, recall and F1, with the averages below."""
    table = Table(title=title)
    for name in ("label", "precision", "recall", "F1", "support"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label, one in scores.classes.items():
        table.add_row(label, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
    table.add_section()
    for name, one in scores.averages.items():
        table.add_row(name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
    table.add_row("accuracy", "", "", f"{scores.accuracy:.3f}", str(scores.count))
    return table
