"""Named values, in the build: judged by their mean absolute error.

Shapes: N moments, V values. An error is compared between values by its share of the value's range (NMAE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.table import Table

from build_engines.heads.kind import Draw, Floats, HeadBuild, Loss, Pairs
from build_engines.heads.prediction import Prediction
from build_engines.recipe import GateRecipe, TrainRecipe
from calibration.moments import LabelledSet
from calibration.samples import CalibrationSample
from edge_runtime.errors import UserError
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.heads.regression import RegressionHead, Value

if TYPE_CHECKING:
    from torch import Tensor

NEAR = 0.1
"""An answer is right where every value is within this part of its range of the truth."""
BEND = 0.05
"""Errors below this part of half a range are squared in the loss, so that training comes to rest."""
COLUMNS = ("mean absolute error", "root mean square", "bias", "of the range", "unit")


class ValueScore(Struct, frozen=True):
    """How far one value is off, in its unit."""

    mae: float
    rmse: float
    bias: float
    """Mean of answer minus truth."""
    span: float
    """Of its range."""
    unit: str

    @property
    def share(self) -> float:
        """The mean absolute error over the range."""
        return self.mae / self.span


class ValueScores(Struct, frozen=True):
    """All scores of one run."""

    count: int
    accuracy: float
    """Share of answers whose values are all within a tenth of their range."""
    nmae: float
    """Mean over the values of the mean absolute error over the range."""
    values: dict[str, ValueScore]

    @property
    def figure(self) -> float:
        """1 - NMAE, so that more is better."""
        return 1.0 - self.nmae

    @property
    def parts(self) -> dict[str, float]:
        """Mean absolute error of each value, in its unit."""
        return {name: value.mae for name, value in self.values.items()}

    @property
    def support(self) -> dict[str, int]:
        return dict.fromkeys(self.values, self.count)

    @property
    def worst(self) -> str:
        """The value that is furthest off for its range."""
        return max(self.values, key=lambda name: self.values[name].share)

    @property
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Value to its `COLUMNS`, as words."""
        return {
            name: (f"{value.mae:.4g}", f"{value.rmse:.4g}", f"{value.bias:+.3g}", f"{value.share:.2%}", value.unit)
            for name, value in self.values.items()
        }

    @property
    def summary(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "nmae_score": self.figure}

    def lost(self, after: ValueScores, gate: GateRecipe) -> list[str]:
        """No value's mean absolute error may grow by more than a factor; a hair's breadth of its range is always free,
        for a factor of nearly nothing is nothing."""
        losses = []
        for name, value in self.values.items():
            now = after.values[name].mae
            if not now <= max(gate.mae_ratio * value.mae, value.mae + gate.mae_slack * value.span):
                allowed = f"more than {gate.mae_ratio:g} times FP32's and {gate.mae_slack:.2%} of the range"
                losses.append(f"{name}: mean absolute error {value.mae:.4g} -> {now:.4g} {value.unit}, {allowed}")
        return losses

    def below(self, gate: GateRecipe) -> str | None:
        if self.nmae <= gate.nmae and self.accuracy >= gate.accuracy:
            return None
        return (
            f"mean absolute error {self.nmae:.2%} of the range (at most {gate.nmae:.2%}), "
            f"accuracy {self.accuracy:.4f} (at least {gate.accuracy})"
        )


class ValuePairs(Pairs):
    """Right values [N, V] beside the ones that were said."""

    def __init__(self, truth: Floats, predicted: Floats, values: Sequence[Value], groups: Sequence[str]) -> None:
        self.truth, self.predicted, self.values, self.groups = truth, predicted, values, groups
        self._spans = np.array([value.maximum - value.minimum for value in values])
        self._errors = np.abs(predicted - truth)
        self.scores: ValueScores = self._score()

    def _score(self) -> ValueScores:
        apart, mae = self.predicted - self.truth, self._errors.mean(axis=0)
        scores = {
            value.name: ValueScore(
                float(mae[i]), float(np.sqrt((apart[:, i] ** 2).mean())), float(apart[:, i].mean()),
                float(self._spans[i]), value.unit,
            )
            for i, value in enumerate(self.values)
        }  # fmt: skip
        nmae = float((mae / self._spans).mean())
        return ValueScores(len(self.truth), float(self.right().mean()), nmae, scores)

    def bootstrap(self, draws: Sequence[Draw]) -> Floats:
        shares = (self._errors / self._spans).mean(axis=1)
        return np.array([1.0 - shares[draw].mean() for draw in draws])

    def right(self) -> NDArray[np.bool_]:
        return np.asarray((self._errors <= NEAR * self._spans).all(axis=1))

    def part_bootstrap(self, draws: Sequence[Draw]) -> dict[str, Floats]:
        """Mean absolute error of each value in each resample."""
        return {
            value.name: np.array([self._errors[draw, i].mean() for draw in draws])
            for i, value in enumerate(self.values)
        }

    def constant(self) -> tuple[str, ValueScores]:
        medians = np.median(self.truth, axis=0)
        words = ", ".join(
            f"{output.name} {value:.4g} {output.unit}" for output, value in zip(self.values, medians, strict=True)
        )
        always = ValuePairs(self.truth, np.broadcast_to(medians, self.truth.shape), self.values, self.groups)
        return words, always.scores

    def poor(self) -> str | None:
        words, always = self.constant()
        if self.scores.nmae < always.nmae:
            return None
        return (
            f"is off by {self.scores.nmae:.2%} of the range over {self.scores.count} moments, always saying {words} by "
            f"{always.nmae:.2%}: check the values and the scaling of inputs"
        )


class RegressionBuild(HeadBuild[RegressionHead]):
    """Values are trained in shares of their range and judged in their units. A decision has no threshold and no memory:
    the model's own answer is what the head says of it, out of range and safe values included.
    """

    figure = "1 - NMAE"
    part = "value"
    part_figure = "mean absolute error"
    mean_of_parts = False
    columns = COLUMNS

    def outputs(self, head: RegressionHead) -> int:
        return len(head.values)

    def truth(self, head: RegressionHead, name: str, moment: LabelledSet) -> NDArray[np.generic]:
        for spec in head.values:
            value = moment.values.get(spec.name)
            if value is None:
                raise UserError(f"{moment.id} has no value {spec.name!r}; name its field in dataset.targets")
            if not spec.minimum <= value <= spec.maximum:
                raise UserError(f"{moment.id}: {spec.name} is {value:g}, outside {spec.minimum:g} to {spec.maximum:g}")
        return np.array([moment.values[spec.name] for spec in head.values], np.float32)

    def loss(self, head: RegressionHead, counts: Floats, plan: TrainRecipe) -> Loss:
        import torch
        from torch.nn.functional import smooth_l1_loss

        spread = torch.tensor(_spread(head), dtype=torch.float32)

        def of(output: Tensor, truth: Tensor) -> Tensor:
            return smooth_l1_loss(output / spread, truth / spread, beta=BEND)

        return of

    def scaling(self, head: RegressionHead) -> tuple[Floats, Floats]:
        """The middle of each range, and half of it."""
        return np.array([(value.minimum + value.maximum) / 2 for value in head.values]), _spread(head)

    def trained_scores(self, head: RegressionHead, output: Tensor, truth: Tensor) -> tuple[float, float]:
        right, predicted = truth.double().numpy(), output.double().numpy()
        scores = ValuePairs(right, predicted, head.values, [""] * len(right)).scores
        return scores.accuracy, scores.figure

    def pairs(self, head: RegressionHead, predictions: Sequence[Prediction], model: bool = False) -> ValuePairs:
        truth = self._matrix(head, [prediction.truth_values for prediction in predictions])
        predicted = self._matrix(head, [prediction.values for prediction in predictions])
        return ValuePairs(truth, predicted, head.values, [prediction.unit for prediction in predictions])

    def output_pairs(
        self, head: RegressionHead, policy: DecisionPolicy, name: str, samples: Sequence[CalibrationSample],
        outputs: Sequence[NDArray[np.float32]],
    ) -> tuple[ValuePairs, NDArray[np.float32]]:  # fmt: skip
        raw = np.stack([value.ravel() for value in outputs])
        verdicts = [head.decide(policy, PolicyState(), row, None)[0] for row in raw]
        predicted = self._matrix(
            head, [verdict.values if isinstance(verdict.values, dict) else {} for verdict in verdicts]
        )
        truth = self._matrix(head, [dict(sample.values) for sample in samples])
        return ValuePairs(truth, predicted, head.values, [sample.group for sample in samples]), raw

    def is_right(self, head: RegressionHead, prediction: Prediction) -> bool:
        return all(
            abs(prediction.values[value.name] - prediction.truth_values[value.name])
            <= NEAR * (value.maximum - value.minimum)
            for value in head.values
        )

    def tables(
        self, head: RegressionHead, pairs: Pairs, predictions: Sequence[Prediction], title: str
    ) -> list[Table | str]:
        table = Table(title=title)
        for column in ("value", *COLUMNS):
            table.add_column(column, justify="left" if column in ("value", "unit") else "right")
        for name, cells in pairs.scores.rows.items():
            table.add_row(name, *cells)
        return [table, f"every value within {NEAR:.0%} of its range: {pairs.scores.accuracy:.3f}"]

    def figures(self, head: RegressionHead, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Mean absolute errors, in the values' units."""
        return {f"mae.{name}": value for name, value in self.pairs(head, predictions).scores.parts.items()}

    @staticmethod
    def _matrix(head: RegressionHead, rows: Sequence[dict[str, float]]) -> Floats:
        for row in rows:
            if missing := [value.name for value in head.values if value.name not in row]:
                raise UserError(f"the data does not tell the value {missing[0]!r}; name its field in dataset.targets")
        return np.array([[row[value.name] for value in head.values] for row in rows], np.float64)


def _spread(head: RegressionHead) -> Floats:
    return np.array([(value.maximum - value.minimum) / 2 for value in head.values])
