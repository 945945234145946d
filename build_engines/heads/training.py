"""What heads with labels are trained and fitted by: losses, temperature, thresholds, offsets.

Shapes: P moments, K labels. A label's number is its place; with a sigmoid head, K means that no label holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

OFFSET_STEP, OFFSET_LIMIT = 0.1, 1.0


def class_weights(counts: NDArray[np.float64], power: float) -> Tensor:
    """(mean count / count) ** power, for classes that occur; 1 for those that do not."""
    counts = np.asarray(counts, dtype=np.float64)
    seen = counts > 0
    weights = np.ones(len(counts))
    weights[seen] = (counts[seen].mean() / counts[seen]) ** power
    return torch.tensor(weights, dtype=torch.float32)


class SoftmaxLoss:
    """The mean cross-entropy of logits [P, K] against labels [P]."""

    def __init__(
        self, counts: NDArray[np.float64], power: float, smoothing: float, factors: Sequence[float] = ()
    ) -> None:
        """`counts` [K]: how often each label occurs. `factors`: one per label, by which its weight is multiplied."""
        self._smoothing, self._weights = smoothing, class_weights(counts, power)
        if factors:
            self._weights *= torch.tensor(factors, dtype=torch.float32)

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(logits, label, self._weights, label_smoothing=self._smoothing)


class SigmoidLoss:
    """The mean binary cross-entropy of logits [P, K] against labels [P], K meaning none, summed over the labels."""

    def __init__(
        self, counts: NDArray[np.float64], power: float, smoothing: float, factors: Sequence[float] = ()
    ) -> None:
        """`counts` [K + 1]: how often each label occurs, none at the end. `factors`: as for `SoftmaxLoss`."""
        self._smoothing = smoothing
        pairs = [class_weights(np.array([counts.sum() - count, count]), power) for count in counts[:-1]]
        self._weights = torch.stack(pairs)
        if factors:
            self._weights[:, 1] *= torch.tensor(factors, dtype=torch.float32)

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        truth = targets(label, logits.shape[1])
        weights = torch.where(truth > 0, self._weights[:, 1], self._weights[:, 0])
        smooth = truth * (1 - self._smoothing) + self._smoothing / 2
        return binary_cross_entropy_with_logits(logits, smooth, weights, reduction="none").sum(1).mean()


def targets(label: Tensor, count: int) -> Tensor:
    """Labels [P] as float32 [P, count]: 1 where the label holds, nowhere for the number `count`."""
    return one_hot(label, count + 1)[:, :count].float()


def reached(logits: Tensor, limit: float = 0.5) -> NDArray[np.int64]:
    """A sigmoid head's strongest label for each row of logits [P, K]; K where no chance reaches `limit`."""
    best: NDArray[np.int64] = logits.argmax(1).numpy()
    return np.where(logits.sigmoid().amax(1).numpy() >= limit, best, logits.shape[1])


def fit_temperature(loss: Callable[[Tensor], Tensor]) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599): `loss` of it."""
    candidates = torch.logspace(-1, 1, 201)
    return round(float(candidates[int(np.argmin([float(loss(value)) for value in candidates]))]), 4)


def fit_thresholds(logits: Tensor, labels: Tensor, names: Sequence[str], temperature: float) -> dict[str, float]:
    """Each sigmoid label's threshold with the best macro-F1 of that label against its absence.

    Few moments make a luckiest threshold, so what lies within one moment (1 / P) of the best counts as equal, and the
    one nearest to a half is taken.
    """
    chances = (logits / temperature).sigmoid().double().numpy()
    truth = targets(labels, logits.shape[1]).numpy() > 0
    thresholds = {}
    for column, name in enumerate(names):
        values = np.unique(chances[:, column])
        candidates = np.unique(np.append((values[1:] + values[:-1]) / 2, 0.5).clip(0.01, 0.99).round(4))
        scores = np.array(
            [
                f1_score(truth[:, column], chances[:, column] >= candidate, average="macro", zero_division=0)
                for candidate in candidates
            ]
        )
        good = candidates[scores >= scores.max() - 1 / len(truth)]
        thresholds[name] = float(good[np.abs(good - 0.5).argmin()])
    return thresholds


def fit_offsets(logits: Tensor, labels: Tensor) -> Tensor:
    """What to add to each softmax logit [K] for the best macro-F1: the most probable label is best for accuracy only
    (threshold moving: Menon et al. 2020, arXiv:2007.07314). The first label's stays 0.

    One label at a time along a line of steps, each judged with its two neighbours so that no lucky point wins, as long
    as one gains more than a moment's weight (1 / P).
    """
    truth, values = labels.numpy(), logits.double().log_softmax(1).numpy()
    line = np.arange(-OFFSET_LIMIT, OFFSET_LIMIT + OFFSET_STEP / 2, OFFSET_STEP)
    offsets = np.zeros(values.shape[1])
    before, gained = -np.inf, True
    while gained:
        gained = False
        for label in range(1, len(offsets)):
            column = np.arange(len(offsets)) == label
            predicted = [(values + np.where(column, step, offsets)).argmax(1) for step in line]
            scores = np.array([f1_score(truth, numbers, average="macro", zero_division=0) for numbers in predicted])
            smooth = np.convolve(np.pad(scores, 1, mode="edge"), np.ones(3) / 3, mode="valid")
            current = smooth[np.abs(line - offsets[label]).argmin()]
            before = max(before, current)
            if smooth.max() > before + 1 / len(truth):
                offsets = np.where(column, line[smooth.argmax()].round(4), offsets)
                before, gained = smooth.max(), True
    return torch.tensor(offsets, dtype=torch.float32)
