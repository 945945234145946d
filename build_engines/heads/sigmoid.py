"""Independent labels, in the build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from build_engines.heads.kind import Floats, Loss
from build_engines.heads.labelled import SMALLEST, OneLabelBuild, factors, true_labels
from build_engines.heads.prediction import Prediction
from build_engines.recipe import TrainRecipe
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.heads.sigmoid import NEGATIVE, SigmoidHead

if TYPE_CHECKING:
    from torch import Tensor


class SigmoidBuild(OneLabelBuild[SigmoidHead]):
    """The strongest label that reaches its threshold is the answer, `none` where none does."""

    abstains = False
    threshold_grid = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def names(self, head: SigmoidHead) -> tuple[str, ...]:
        return (*head.labels, NEGATIVE)

    def own_label(self, head: SigmoidHead, prediction: Prediction) -> str:
        return prediction.label

    def label_of(self, head: SigmoidHead, policy: DecisionPolicy, logits: NDArray[np.float32]) -> str:
        return head.decide(policy, PolicyState(), logits, None)[0].label

    def at_temperature(self, probabilities: Floats, fitted: float, temperature: float) -> Floats:
        safe = np.clip(probabilities, SMALLEST, 1.0)
        odds = (safe / np.clip(1.0 - probabilities, 1e-16, 1.0)) ** (fitted / temperature)
        return np.asarray(odds / (1.0 + odds))

    def confidences(
        self, head: SigmoidHead, predictions: Sequence[Prediction], probabilities: Floats
    ) -> tuple[NDArray[np.bool_], Floats]:
        truth = np.array([[label in true_labels(prediction) for label in head.labels] for prediction in predictions])
        return truth.ravel(), probabilities.ravel()

    def answer_confidences(
        self, head: SigmoidHead, predictions: Sequence[Prediction]
    ) -> tuple[NDArray[np.bool_], Floats]:
        right = np.array([prediction.label == prediction.truth for prediction in predictions])
        return right, np.array([prediction.confidence for prediction in predictions])

    def curve_limits(self, head: SigmoidHead, policy: DecisionPolicy) -> dict[str, float]:
        return head.limits(policy)

    def logits_of(self, probabilities: Floats) -> Floats:
        chances = np.clip(probabilities, SMALLEST, 1.0)
        return np.asarray(np.log(chances) - np.log(np.clip(1.0 - chances, 1e-16, 1.0)))

    def losses(self, logits: Floats, truth: NDArray[np.int64], temperature: float) -> Floats:
        import torch

        scaled, labels = torch.from_numpy(logits / temperature), logits.shape[1]
        right = torch.nn.functional.one_hot(torch.from_numpy(truth), labels + 1)[:, :-1].double()
        each = torch.nn.functional.binary_cross_entropy_with_logits(scaled, right, reduction="none")
        return np.asarray(each.sum(1).numpy())

    def loss(self, head: SigmoidHead, counts: Floats, plan: TrainRecipe) -> Loss:
        from build_engines.heads.training import SigmoidLoss

        return SigmoidLoss(counts, plan.class_balance, plan.label_smoothing, factors(head.labels, plan))

    def predicted(self, output: Tensor) -> NDArray[np.int64]:
        from build_engines.heads.training import reached

        return reached(output)

    def fitted(self, head: SigmoidHead, output: Tensor, truth: Tensor) -> dict[str, Any]:
        from torch.nn.functional import binary_cross_entropy_with_logits

        from build_engines.heads.training import fit_temperature, fit_thresholds, targets

        expected = targets(truth, output.shape[1])
        temperature = fit_temperature(lambda value: binary_cross_entropy_with_logits(output / value, expected))
        return {"temperature": temperature, "thresholds": fit_thresholds(output, truth, head.labels, temperature)}
