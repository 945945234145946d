"""Temperature and thresholds fitted by cross-validation: what is judged is always a fold that was not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from build_engines.evaluation.confidence import SMALLEST, matrix
from build_engines.evaluation.evaluate import Prediction
from build_engines.model.heads import fit_temperature, model_answer
from edge_runtime.decide import decide
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.messages import Inference

FOLDS = 5
GRID = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NEAR_HALF = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """The moments that the model answered, ready to be decided again under another policy."""

    head: Head
    policy: DecisionPolicy
    logits: Floats
    """[N, labels], up to a constant per row"""
    truth: tuple[str, ...]
    groups: tuple[str, ...]
    clusters: tuple[str, ...]

    @classmethod
    def of(cls, head: Head, policy: DecisionPolicy, predictions: Sequence[Prediction]) -> Answers:
        """From decisions made under `policy`."""
        known = [one for one in predictions if one.probabilities]
        chances = np.clip(matrix(known, head.labels), SMALLEST, 1.0)
        logits = np.log(chances)
        if head.kind == "sigmoid":
            logits -= np.log(np.clip(1.0 - chances, 1e-16, 1.0))
        return cls(
            head, policy, logits * policy.temperature, tuple(one.truth for one in known),
            tuple(one.group for one in known), tuple(one.cluster or one.group for one in known),
        )  # fmt: skip

    @property
    def numbers(self) -> Ints:
        """The true label's number of each moment; the number of labels where none holds."""
        places = {name: index for index, name in enumerate(self.head.labels)}
        return np.array([places.get(name, len(places)) for name in self.truth])

    def folds(self) -> Iterator[tuple[Ints, Ints]]:
        """Rows to fit on, and rows to judge; no cluster is torn apart."""
        from sklearn.model_selection import GroupKFold

        count = min(FOLDS, len(set(self.clusters)))
        if count < 2:
            return
        yield from GroupKFold(count).split(self.logits, groups=list(self.clusters))

    def losses(self, temperature: float) -> Floats:
        """[N] negative log-likelihood of the truth."""
        scaled = torch.from_numpy(self.logits / temperature)
        truth = torch.from_numpy(self.numbers)
        if self.head.kind == "sigmoid":
            right = torch.nn.functional.one_hot(truth, len(self.head.labels) + 1)[:, :-1].double()
            each = torch.nn.functional.binary_cross_entropy_with_logits(scaled, right, reduction="none")
            return np.asarray(each.sum(1).numpy())
        return np.asarray(torch.nn.functional.cross_entropy(scaled, truth, reduction="none").numpy())

    def fitted_temperature(self, rows: Ints) -> float:
        """The temperature with the least loss on `rows`."""
        logits, truth = torch.from_numpy(self.logits[rows]), torch.from_numpy(self.numbers[rows])
        return fit_temperature(logits, truth, self.head.kind)

    def proposals(self, temperature: float) -> tuple[NDArray[np.str_], Floats]:
        """What would be said with no thresholds, and how surely: hysteresis as on the device. softmax only."""
        open_policy = msgspec.structs.replace(self.policy, temperature=temperature, threshold=0.0, thresholds={})
        labels, confidence = [], []
        state, group = PolicyState(), None
        for logits, its_group in zip(self.logits, self.groups, strict=True):
            if its_group != group:
                state, group = PolicyState(), its_group
            verdict, state = decide(self.head, open_policy, state, None, Inference(logits[None].astype(np.float32)))
            labels.append(verdict.label)
            confidence.append(verdict.confidence)
        return np.array(labels), np.array(confidence)

    def decided(self, temperature: float, thresholds: Mapping[str, float]) -> NDArray[np.str_]:
        """The decisions with these thresholds (a label without one has the policy's)."""
        if self.head.kind == "sigmoid":
            policy = msgspec.structs.replace(self.policy, temperature=temperature, thresholds=dict(thresholds))
            return np.array([model_answer(self.head, policy, row) for row in self.logits])
        labels, confidence = self.proposals(temperature)
        return gated(self.policy, labels, confidence, thresholds)


def gated(
    policy: DecisionPolicy, labels: NDArray[np.str_], confidence: Floats, thresholds: Mapping[str, float]
) -> NDArray[np.str_]:
    """The safe label wherever confidence is below the label's threshold."""
    limits = np.array([thresholds.get(str(label), policy.threshold) for label in labels])
    return np.where(confidence < limits, policy.safe_label, labels)


def out_of_fold_losses(answers: Answers) -> Floats:
    """[N] loss of each moment at the temperature that the other folds chose."""
    found = np.zeros(len(answers.truth))
    for fit, judged in answers.folds():
        found[judged] = answers.losses(answers.fitted_temperature(fit))[judged]
    return found


def fitted_thresholds(answers: Answers, temperature: float, rows: Ints, start: Mapping[str, float]) -> dict[str, float]:
    """Thresholds with the best macro-F1 of the decisions on `rows`: label by label, the rarest gain first kept.

    A threshold must win at least one moment's worth (1 / rows) to replace the one before.
    """
    truth = np.array(answers.truth)[rows]
    found = dict(start)
    sigmoid = answers.head.kind == "sigmoid"
    proposed = None if sigmoid else answers.proposals(temperature)

    def scored(thresholds: Mapping[str, float]) -> float:
        if proposed is None:
            said = answers.decided(temperature, thresholds)[rows]
        else:
            said = gated(answers.policy, proposed[0][rows], proposed[1][rows], thresholds)
        return float(f1_score(truth, said, average="macro", zero_division=0))

    best = scored(found)
    for label in answers.head.labels:
        if label == answers.policy.safe_label:
            continue  # abstaining from the safe label says the safe label
        for limit in NEAR_HALF if sigmoid else GRID:
            value = scored(found | {label: limit})
            if value > best + 1.0 / len(rows):
                best, found = value, found | {label: limit}
    return found


def out_of_fold_decisions(answers: Answers, temperature: float, start: Mapping[str, float]) -> NDArray[np.str_]:
    """Each moment's decision with the thresholds that the other folds chose."""
    found = np.array(answers.decided(temperature, start), dtype=object)
    for fit, judged in answers.folds():
        thresholds = fitted_thresholds(answers, temperature, fit, start)
        found[judged] = answers.decided(temperature, thresholds)[judged]
    return found.astype(str)
