"""Temperature and thresholds fitted by cross-validation: what is judged is always a fold that was not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from build_engines.heads import one_label_build
from build_engines.heads.labelled import LabelHead, matrix
from build_engines.heads.prediction import Prediction
from build_engines.heads.training import fit_temperature
from edge_runtime.decide import decide
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.messages import Inference

FOLDS = 5
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """The moments that the model answered, ready to be decided again under another policy."""

    head: LabelHead
    policy: DecisionPolicy
    logits: Floats
    """[N, labels], up to a constant per row"""
    truth: tuple[str, ...]
    groups: tuple[str, ...]
    clusters: tuple[str, ...]

    @classmethod
    def of(cls, head: LabelHead, policy: DecisionPolicy, predictions: Sequence[Prediction]) -> Answers:
        """From decisions made under `policy`."""
        build = one_label_build(head)
        scored = [prediction for prediction in predictions if prediction.probabilities]
        logits = build.logits_of(matrix(scored, head.labels))
        return cls(
            head, policy, logits * policy.temperature, tuple(prediction.truth for prediction in scored),
            tuple(prediction.group for prediction in scored),
            tuple(prediction.cluster or prediction.group for prediction in scored),
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
        each: Floats = one_label_build(self.head).losses(self.logits, self.numbers, temperature)
        return each

    def fitted_temperature(self, rows: Ints) -> float:
        """The temperature with the least loss on `rows`."""
        build, logits, truth = one_label_build(self.head), self.logits[rows], self.numbers[rows]
        return fit_temperature(lambda value: build.losses(logits, truth, float(value)).mean())

    def proposals(self, temperature: float) -> tuple[NDArray[np.str_], Floats]:
        """What a head that abstains would say with no thresholds, and how surely; hysteresis as on the device."""
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
        build = one_label_build(self.head)
        if not build.abstains:
            policy = msgspec.structs.replace(self.policy, temperature=temperature, thresholds=dict(thresholds))
            return np.array([build.label_of(self.head, policy, row) for row in self.logits])
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
    losses = np.zeros(len(answers.truth))
    for fit, judged in answers.folds():
        losses[judged] = answers.losses(answers.fitted_temperature(fit))[judged]
    return losses


def fitted_thresholds(answers: Answers, temperature: float, rows: Ints, start: Mapping[str, float]) -> dict[str, float]:
    """Thresholds with the best macro-F1 of the decisions on `rows`: label by label, the rarest gain first kept.

    A threshold must win at least one moment's worth (1 / rows) to replace the one before.
    """
    truth = np.array(answers.truth)[rows]
    chosen = dict(start)
    build = one_label_build(answers.head)
    proposed = answers.proposals(temperature) if build.abstains else None

    def scored(thresholds: Mapping[str, float]) -> float:
        if proposed is None:
            predicted = answers.decided(temperature, thresholds)[rows]
        else:
            predicted = gated(answers.policy, proposed[0][rows], proposed[1][rows], thresholds)
        return float(f1_score(truth, predicted, average="macro", zero_division=0))

    best = scored(chosen)
    for label in answers.head.labels:
        if label == answers.policy.safe_label:
            continue  # abstaining from the safe label says the safe label
        for limit in build.threshold_grid:
            value = scored(chosen | {label: limit})
            if value > best + 1.0 / len(rows):
                best, chosen = value, chosen | {label: limit}
    return chosen


def out_of_fold_decisions(answers: Answers, temperature: float, start: Mapping[str, float]) -> NDArray[np.str_]:
    """Each moment's decision with the thresholds that the other folds chose."""
    decisions = np.array(answers.decided(temperature, start), dtype=object)
    for fit, judged in answers.folds():
        thresholds = fitted_thresholds(answers, temperature, fit, start)
        decisions[judged] = answers.decided(temperature, thresholds)[judged]
    return decisions.astype(str)
