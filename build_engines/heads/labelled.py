"""Heads that answer with labels: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from build_engines.heads.intervals import bootstrap
from build_engines.heads.kind import Draw, Floats, HeadBuild, Pairs
from build_engines.heads.metrics import Scores, class_table, score
from build_engines.heads.prediction import Prediction
from build_engines.recipe import TrainRecipe
from calibration.moments import LabelledSet
from calibration.samples import CalibrationSample
from edge_runtime.errors import UserError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead

if TYPE_CHECKING:
    from torch import Tensor

OneLabel = TypeVar("OneLabel", SoftmaxHead, SigmoidHead)
LabelHead = SoftmaxHead | SigmoidHead


class LabelPairs(Pairs):
    """Right labels beside the ones that were said."""

    def __init__(
        self, truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str], groups: Sequence[str]
    ) -> None:
        self.truth, self.predicted, self.labels, self.groups = truth, predicted, labels, groups
        self.scores: Scores = score(truth, predicted, labels)

    def bootstrap(self, draws: Sequence[Draw]) -> Floats:
        return bootstrap(self.truth, self.predicted, draws)

    def right(self) -> NDArray[np.bool_]:
        return np.array([a == b for a, b in zip(self.predicted, self.truth, strict=True)], bool)

    def part_bootstrap(self, draws: Sequence[Draw]) -> dict[str, Floats]:
        """F1 of one label in each resample: 2 * right / (said + true), 0 where it does not occur."""
        return {label: self._class_f1(label, draws) for label in self.scores.classes}

    def _class_f1(self, label: str, draws: Sequence[Draw]) -> Floats:
        is_true = np.array([truth == label for truth in self.truth])
        is_predicted = np.array([predicted == label for predicted in self.predicted])
        both = is_true & is_predicted
        f1 = np.zeros(len(draws))
        for row, draw in enumerate(draws):
            count = is_true[draw].sum() + is_predicted[draw].sum()
            f1[row] = 2 * both[draw].sum() / count if count else 0.0
        return f1

    def constant(self) -> tuple[str, Scores]:
        commonest = max(sorted(set(self.truth)), key=self.truth.count)
        return repr(commonest), score(self.truth, [commonest] * len(self.truth), self.labels)

    def poor(self) -> str | None:
        always = self.constant()[1].accuracy
        if self.scores.accuracy > always:
            return None
        return (
            f"is right in {self.scores.accuracy:.4f} of {len(self.truth)} moments, always saying the commonest label "
            f"in {always:.4f}: check the labels and the scaling of inputs{self.swapped()}"
        )

    def swapped(self) -> str:
        """A hint where exchanging labels one for one would mend most of it."""
        from scipy.optimize import linear_sum_assignment

        table = np.array(self.scores.confusion)
        rows, columns = linear_sum_assignment(table, maximize=True)
        names = self.scores.confusion_labels
        better = float(table[rows, columns].sum() / table.sum())
        wrong = [(names[c], names[r]) for r, c in zip(rows, columns, strict=True) if r != c and table[r, c]]
        if better < self.scores.accuracy + 0.2 or not wrong:
            return ""
        pairs = ", ".join(f"{wrong_label!r} where the data says {true!r}" for wrong_label, true in wrong[:3])
        return f"; the labels look swapped: it says {pairs} (accuracy {better:.4f} if exchanged)"


SMALLEST = 1e-300
"""A probability of 0 counts as this: its logarithm must be finite."""


def matrix(predictions: Sequence[Prediction], labels: Sequence[str]) -> Floats:
    """[N, labels] probabilities; rows without (safe decisions) are 0."""
    return np.array([[prediction.probabilities.get(label, 0.0) for label in labels] for prediction in predictions])


def true_labels(prediction: Prediction) -> tuple[str, ...]:
    """The labels that a sigmoid head should find."""
    return prediction.truth_tags or (prediction.truth,)


class OneLabelBuild(HeadBuild[OneLabel], Generic[OneLabel]):
    """A head that answers a moment with one label."""

    @abstractmethod
    def names(self, head: OneLabel) -> tuple[str, ...]:
        """What may be right, by number."""

    @abstractmethod
    def own_label(self, head: OneLabel, prediction: Prediction) -> str:
        """The model's own answer: without abstention and hysteresis."""

    @abstractmethod
    def label_of(self, head: OneLabel, policy: DecisionPolicy, logits: NDArray[np.float32]) -> str:
        """The same of one moment's `logits` [labels]."""

    @abstractmethod
    def at_temperature(self, probabilities: Floats, fitted: float, temperature: float) -> Floats:
        """`probabilities` [N, labels], made with the temperature `fitted`, as they would be with `temperature`."""

    @abstractmethod
    def confidences(
        self, head: OneLabel, predictions: Sequence[Prediction], probabilities: Floats
    ) -> tuple[NDArray[np.bool_], Floats]:
        """What is right, and how sure the model is of it: [N] answers, or [N * labels] labels one by one."""

    @abstractmethod
    def answer_confidences(self, head: OneLabel, predictions: Sequence[Prediction]) -> tuple[NDArray[np.bool_], Floats]:
        """Whether each of N whole answers of the model is right, and how sure it is."""

    @abstractmethod
    def curve_limits(self, head: OneLabel, policy: DecisionPolicy) -> dict[str, float]:
        """Labels that are there or not there, by themselves, to the probability from which they are said."""

    abstains: ClassVar[bool] = True
    """Below a label's threshold the safe label is said; else thresholds tell what is there at all."""
    threshold_grid: ClassVar[tuple[float, ...]]
    """Thresholds to try."""

    @abstractmethod
    def losses(self, logits: Floats, truth: NDArray[np.int64], temperature: float) -> Floats:
        """[N] negative log-likelihood of the labels' numbers `truth` given `logits` [N, labels]."""

    @abstractmethod
    def logits_of(self, probabilities: Floats) -> Floats:
        """Logits [N, labels] that give `probabilities` at temperature 1, up to a constant per row."""

    @abstractmethod
    def predicted(self, output: Tensor) -> NDArray[np.int64]:
        """Number of the label that each row of raw outputs [N, labels] says."""

    def trained_scores(self, head: OneLabel, output: Tensor, truth: Tensor) -> tuple[float, float]:
        return label_scores(truth, self.predicted(output))

    def outputs(self, head: OneLabel) -> int:
        return len(head.labels)

    def truth(self, head: OneLabel, name: str, moment: LabelledSet) -> NDArray[np.generic]:
        label = moment.side.get(name, "") if name else moment.label
        names = self.names(head)
        if label not in names:
            raise UserError(f"label {label!r} is none of {', '.join(names)}")
        return np.array(names.index(label))

    def pairs(self, head: OneLabel, predictions: Sequence[Prediction], model: bool = False) -> LabelPairs:
        predicted = [self.own_label(head, prediction) if model else prediction.label for prediction in predictions]
        return LabelPairs(
            [prediction.truth for prediction in predictions],
            predicted,
            head.labels,
            [prediction.unit for prediction in predictions],
        )

    def output_pairs(
        self, head: OneLabel, policy: DecisionPolicy, name: str, samples: Sequence[CalibrationSample],
        outputs: Sequence[NDArray[np.float32]],
    ) -> tuple[LabelPairs, NDArray[np.float32]]:  # fmt: skip
        logits = np.stack([value.ravel() for value in outputs])
        truth = [sample.side.get(name, "") if name else sample.label for sample in samples]
        predicted = [self.label_of(head, policy, row) for row in logits]
        return LabelPairs(truth, predicted, head.labels, [sample.group for sample in samples]), logits

    def figures(self, head: OneLabel, predictions: Sequence[Prediction]) -> dict[str, float]:
        return {"f1_weighted": self.pairs(head, predictions).scores.f1_weighted}

    def is_right(self, head: OneLabel, prediction: Prediction) -> bool:
        return prediction.label == prediction.truth

    def tables(self, head: OneLabel, pairs: Pairs, predictions: Sequence[Prediction], title: str) -> list[Table | str]:
        assert isinstance(pairs.scores, Scores)
        return [class_table(pairs.scores, title)]


def factors(labels: Sequence[str], plan: TrainRecipe) -> list[float]:
    """What each label's weight is multiplied by; empty = nothing."""
    return [plan.class_weights.get(label, 1.0) for label in labels] if plan.class_weights else []


def label_scores(truth: Tensor, predicted: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy and macro-F1 of labels' numbers."""
    from sklearn.metrics import accuracy_score, f1_score

    right = truth.numpy()
    return float(accuracy_score(right, predicted)), float(f1_score(right, predicted, average="macro", zero_division=0))
