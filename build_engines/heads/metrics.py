"""What a set of decisions is worth, by scikit-learn, as plain data, a table and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from rich.table import Table
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from build_engines.recipe import GateRecipe

COLUMNS = ("precision", "recall", "F1")
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

    @property
    def figure(self) -> float:
        """Macro-F1."""
        return self.f1_macro

    @property
    def parts(self) -> dict[str, float]:
        """F1 of each label."""
        return {name: score.f1 for name, score in self.classes.items()}

    @property
    def support(self) -> dict[str, int]:
        """Cases of each label."""
        return {name: score.support for name, score in self.classes.items()}

    @property
    def worst(self) -> str:
        """The label with the lowest F1, of those that occur."""
        return min(
            (name for name, score in self.classes.items() if score.support), key=lambda name: self.classes[name].f1
        )

    @property
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Label or average to its `COLUMNS`, as words."""
        averages = {f"{name} average": average for name, average in self.averages.items()}
        return {
            name: (f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}")
            for name, score in (self.classes | averages).items()
        }

    @property
    def summary(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "f1_macro": self.f1_macro}

    def lost(self, after: Scores, gate: GateRecipe) -> list[str]:
        """Macro-F1, and every label's own F1, may fall so far."""
        losses = []
        if not after.f1_macro >= gate.macro_f1_ratio * self.f1_macro:
            before, now = f"{self.f1_macro:.4f}", f"{after.f1_macro:.4f}"
            losses.append(f"macro-F1 {before} -> {now}, below {gate.macro_f1_ratio:.0%} of FP32")
        for name, score in self.classes.items():
            f1 = after.classes[name].f1 if name in after.classes else float("nan")
            if score.support and not score.f1 - f1 <= gate.class_drop:
                losses.append(f"{name}: F1 {score.f1:.4f} -> {f1:.4f}, more than {gate.class_drop:.2f} down")
        return losses

    def below(self, gate: GateRecipe) -> str | None:
        """Accuracy and macro-F1 have floors."""
        if self.accuracy >= gate.accuracy and self.f1_macro >= gate.macro_f1:
            return None
        return (
            f"accuracy {self.accuracy:.4f} (at least {gate.accuracy}), "
            f"macro-F1 {self.f1_macro:.4f} (at least {gate.macro_f1})"
        )


def score(
    truth: Sequence[str], answers: Sequence[str], labels: Sequence[str], counts: Sequence[int] | None = None
) -> Scores:
    """Scores of `answers` against `truth`; `labels` gives the order. An answer outside `labels` counts as wrong.
    `counts`: how often each pair occurs, once each where it is not given."""
    occurring = set(truth) | set(answers)
    order = [label for label in labels if label in occurring] + sorted(occurring - set(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, answers, labels=order, average=None, zero_division=0, sample_weight=counts
    )
    places = {label: place for place, label in enumerate(order)}
    table = np.zeros((len(order), len(order)), np.int64)
    pairs = [places[label] for label in truth], [places[label] for label in answers]
    np.add.at(table, pairs, 1 if counts is None else counts)
    count = int(table.sum())
    averages = {}
    for name in AVERAGES:
        figures = precision_recall_fscore_support(
            truth, answers, labels=order, average=name, zero_division=0, sample_weight=counts
        )
        averages[name] = ClassScore(float(figures[0]), float(figures[1]), float(figures[2]), count)
    return Scores(
        count=count,
        accuracy=float(accuracy_score(truth, answers, sample_weight=counts)),
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
    for label, score in scores.classes.items():
        table.add_row(label, f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}", str(score.support))
    table.add_section()
    for name, average in scores.averages.items():
        table.add_row(
            name, f"{average.precision:.3f}", f"{average.recall:.3f}", f"{average.f1:.3f}", str(average.support)
        )
    table.add_row("accuracy", "", "", f"{scores.accuracy:.3f}", str(scores.count))
    return table
