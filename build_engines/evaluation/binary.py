"""ROC and precision-recall curves of binary decisions, with the operating point that ships."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from build_engines.evaluation.confidence import POINTS
from build_engines.heads import build_of
from build_engines.heads.labelled import OneLabelBuild, true_labels
from build_engines.heads.prediction import Prediction
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy


class Point(Struct, frozen=True):
    """Where on the curves the policy stands."""

    threshold: float
    recall: float
    precision: float
    false_positive_rate: float


class Curves(Struct, frozen=True):
    """Both curves of one label against all else."""

    label: str
    auc: float
    """Area under the ROC curve."""
    average_precision: float
    prevalence: float
    point: Point
    roc_x: tuple[float, ...]
    roc_y: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


def curves(head: Head, policy: DecisionPolicy, predictions: Sequence[Prediction]) -> list[Curves]:
    """For each label of a sigmoid head, and for the second label of a softmax head with two; else none.

    A label that is never or always true has no curve. Decisions without probabilities are left out.
    """
    build = build_of(head)
    limits = build.curve_limits(head, policy) if isinstance(build, OneLabelBuild) else {}
    scored = [prediction for prediction in predictions if prediction.probabilities]
    drawn = []
    for label, limit in limits.items():
        truth = np.array([label in true_labels(prediction) for prediction in scored], bool)
        if truth.any() and not truth.all():
            drawn.append(
                _curves(label, limit, truth, np.array([prediction.probabilities[label] for prediction in scored]))
            )
    return drawn


def _curves(label: str, limit: float, truth: np.ndarray, scores: np.ndarray) -> Curves:
    from sklearn.metrics import (
        average_precision_score,
        confusion_matrix,
        precision_recall_curve,
        precision_score,
        recall_score,
        roc_auc_score,
        roc_curve,
    )

    positive = scores >= limit
    negative, false_positive = confusion_matrix(truth, positive, labels=[False, True])[0]
    roc_x, roc_y, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores)
    return Curves(
        label=label,
        auc=float(roc_auc_score(truth, scores)),
        average_precision=float(average_precision_score(truth, scores)),
        prevalence=float(truth.mean()),
        point=Point(
            limit,
            float(recall_score(truth, positive, zero_division=0)),
            float(precision_score(truth, positive, zero_division=0)),
            float(false_positive / (negative + false_positive)),
        ),
        roc_x=_thinned(roc_x), roc_y=_thinned(roc_y), recall=_thinned(recall), precision=_thinned(precision),
    )  # fmt: skip


def _thinned(values: np.ndarray, most: int = POINTS) -> tuple[float, ...]:
    """At most `most` of the values, first and last among them."""
    places = np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))
    return tuple(round(float(values[place]), 5) for place in places)
