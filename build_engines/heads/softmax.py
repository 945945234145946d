"""One label of n, in the build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from build_engines.heads.kind import Floats, Loss
from build_engines.heads.labelled import SMALLEST, OneLabelBuild, factors, matrix
from build_engines.heads.prediction import Prediction
from build_engines.recipe import TrainRecipe
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead

if TYPE_CHECKING:
    from torch import Tensor


class SoftmaxBuild(OneLabelBuild[SoftmaxHead]):
    """The most probable label is the answer."""

    threshold_grid = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def names(self, head: SoftmaxHead) -> tuple[str, ...]:
        return head.labels

    def own_label(self, head: SoftmaxHead, prediction: Prediction) -> str:
        chances = prediction.probabilities
        return max(chances, key=chances.__getitem__) if chances else prediction.label

    def label_of(self, head: SoftmaxHead, policy: DecisionPolicy, logits: NDArray[np.float32]) -> str:
        return head.labels[int(logits.argmax())]

    def at_temperature(self, probabilities: Floats, fitted: float, temperature: float) -> Floats:
        logs = self.logits_of(probabilities) * (fitted / temperature)
        raised = np.exp(logs - logs.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def confidences(
        self, head: SoftmaxHead, predictions: Sequence[Prediction], probabilities: Floats
    ) -> tuple[NDArray[np.bool_], Floats]:
        predicted = np.array(head.labels)[probabilities.argmax(axis=1)]
        return predicted == np.array([prediction.truth for prediction in predictions]), probabilities.max(axis=1)

    def answer_confidences(
        self, head: SoftmaxHead, predictions: Sequence[Prediction]
    ) -> tuple[NDArray[np.bool_], Floats]:
        return self.confidences(head, predictions, matrix(predictions, head.labels))

    def curve_limits(self, head: SoftmaxHead, policy: DecisionPolicy) -> dict[str, float]:
        """The second of two labels."""
        return {head.labels[1]: 0.5} if len(head.labels) == 2 else {}

    def logits_of(self, probabilities: Floats) -> Floats:
        return np.asarray(np.log(np.clip(probabilities, SMALLEST, 1.0)))

    def losses(self, logits: Floats, truth: NDArray[np.int64], temperature: float) -> Floats:
        import torch

        scaled = torch.from_numpy(logits / temperature)
        each = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(truth), reduction="none")
        return np.asarray(each.numpy())

    def loss(self, head: SoftmaxHead, counts: Floats, plan: TrainRecipe) -> Loss:
        from build_engines.heads.training import SoftmaxLoss

        return SoftmaxLoss(counts, plan.class_balance, plan.label_smoothing, factors(head.labels, plan))

    def predicted(self, output: Tensor) -> NDArray[np.int64]:
        return np.asarray(output.argmax(1).numpy())

    def fitted(self, head: SoftmaxHead, output: Tensor, truth: Tensor) -> dict[str, Any]:
        return softmax_fitted(output, truth)


def softmax_fitted(output: Tensor, truth: Tensor) -> dict[str, Any]:
    """The temperature of logits [N, K] of labels [N]."""
    from torch.nn.functional import cross_entropy

    from build_engines.heads.training import fit_temperature

    return {"temperature": fit_temperature(lambda value: cross_entropy(output / value, truth))}
