"""What the build needs of every kind of head: its answers and truths, its loss, and how they are judged.

Nothing here imports torch: what trains is imported where it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from build_engines.heads.metrics import COLUMNS
from build_engines.heads.prediction import Prediction
from build_engines.recipe import GateRecipe, TrainRecipe
from calibration.moments import LabelledSet
from calibration.samples import CalibrationSample
from edge_runtime.heads.policy import DecisionPolicy, Inputs
from edge_runtime.messages import Detection

if TYPE_CHECKING:
    from torch import Tensor

Draw = NDArray[np.int64]
Floats = NDArray[np.float64]
Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""Raw outputs and truths of P moments to their mean loss."""
OfHead = TypeVar("OfHead")


class Part(NamedTuple):
    """A part of a report: a table under its own heading."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class HeadScores(Protocol):
    """What a set of answers is worth. A `figure` is between 0 and 1, more is better."""

    @property
    def count(self) -> int:
        """Answers that were judged."""

    @property
    def accuracy(self) -> float:
        """Share of answers that are right."""

    @property
    def figure(self) -> float:
        """What answers of this kind are compared by."""

    @property
    def parts(self) -> Mapping[str, float]:
        """Each label's, or each value's, own figure."""

    @property
    def support(self) -> Mapping[str, int]:
        """Cases of each part."""

    @property
    def worst(self) -> str:
        """The part that is worst off."""

    @property
    def rows(self) -> Mapping[str, tuple[str, ...]]:
        """For people: each part, and averages, to what its columns hold."""

    @property
    def summary(self) -> Mapping[str, float]:
        """Name of a figure to it, as files hold them."""

    def lost(self, after: Any, gate: GateRecipe) -> list[str]:
        """In words, what the scores `after` have lost against these beyond the gate's limits; empty = nothing."""

    def below(self, gate: GateRecipe) -> str | None:
        """In words, that these do not reach what the gate wants of FP32; None = they do."""


class Pairs(ABC):
    """Truths beside answers, one pair for everything that is judged: a moment, a word."""

    scores: HeadScores
    groups: Sequence[str]
    """What each pair belongs to; pairs of one group are not independent."""

    @abstractmethod
    def bootstrap(self, draws: Sequence[Draw]) -> Floats:
        """The figure in each resample of the pairs."""

    @abstractmethod
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right."""

    @abstractmethod
    def part_bootstrap(self, draws: Sequence[Draw]) -> dict[str, Floats]:
        """Every part's own figure in each resample."""

    @abstractmethod
    def constant(self) -> tuple[str, HeadScores]:
        """The best answer that is always the same, in words, and what it is worth."""

    @abstractmethod
    def poor(self) -> str | None:
        """In words, that these answers are not worth comparing with: no better than an answer that is always the same,
        and what seems to be wrong; None = they are."""


class HeadBuild(ABC, Generic[OfHead]):
    """A kind of head in the build: a row of the table in `build_engines.heads`."""

    figure: ClassVar[str] = "macro-F1"
    """What the figure is called."""
    part: ClassVar[str] = "label"
    """What a part is called."""
    part_figure: ClassVar[str] = "F1"
    """What a part's own figure is called."""
    mean_of_parts: ClassVar[bool] = True
    """Whether the figure is the mean of the parts' own."""
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    """Of the scores' rows."""
    judged: ClassVar[str] = "decisions"
    """What is judged, in the plural."""

    layout: ClassVar[str] = ""
    """The layout that alone tells what is right for it; empty where several do."""

    # Data

    @abstractmethod
    def outputs(self, head: OfHead) -> int:
        """How many raw values the model gives (of a word, for a tagging head)."""

    @abstractmethod
    def truth(self, head: OfHead, name: str, moment: LabelledSet) -> NDArray[np.generic]:
        """What the head called `name` (empty: the first) should say, as training wants it: a label's number [], or
        values [V]. Raises UserError where the moment does not tell."""

    # Training

    @abstractmethod
    def loss(self, head: OfHead, counts: Floats, plan: TrainRecipe) -> Loss:
        """The loss. `counts`: how often each answer occurs in the training split, where answers can be counted."""

    @abstractmethod
    def trained_scores(self, head: OfHead, output: Tensor, truth: Tensor) -> tuple[float, float]:
        """Accuracy and figure of raw outputs [N, outputs] against truths."""

    def fitted(self, head: OfHead, output: Tensor, truth: Tensor) -> dict[str, Any]:
        """Settings of the policy that are fitted to the validation split, by name."""
        return {}

    def scaling(self, head: OfHead) -> tuple[Floats, Floats] | None:
        """Centre and spread [outputs] that the model's last layer is moved and stretched by; None = not at all."""
        return None

    # Judging

    @abstractmethod
    def pairs(self, head: OfHead, predictions: Sequence[Prediction], model: bool = False) -> Pairs:
        """Truths beside the decisions; `model`: beside the model's own answers, before the policy."""

    @abstractmethod
    def output_pairs(
        self, head: OfHead, policy: DecisionPolicy, name: str, samples: Sequence[CalibrationSample],
        outputs: Sequence[NDArray[np.float32]],
    ) -> tuple[Pairs, NDArray[np.float32]]:  # fmt: skip
        """The same of raw outputs, one per moment, and the outputs as one matrix with a row per pair."""

    def candidates(self, head: OfHead, output: NDArray[np.float32], inputs: Inputs) -> tuple[Detection, ...]:
        """What the model found for `output`, before the policy, for a head that finds things in a picture."""
        return ()

    def kept(self, head: OfHead, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `output_pairs` asks of a raw output, where that is much less than all of it."""
        return output

    @abstractmethod
    def is_right(self, head: OfHead, prediction: Prediction) -> bool:
        """Whether a whole decision is right."""

    # Reports

    @abstractmethod
    def tables(self, head: OfHead, pairs: Pairs, predictions: Sequence[Prediction], title: str) -> list[Table | str]:
        """For the terminal."""

    def headline(self, head: OfHead, predictions: Sequence[Prediction]) -> list[str]:
        """Lines of the report's head instead of the model's own figure; empty where decisions differ from it."""
        return []

    def sections(self, head: OfHead, predictions: Sequence[Prediction]) -> list[Part]:
        """Parts of the report that only this kind has."""
        return []

    def figures(self, head: OfHead, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What the manifest says of it beside the figures of every head."""
        return {}

    def document(self, head: OfHead, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """What the evaluation's JSON holds beside the scores of every head."""
        return {}


AnyHeadBuild = HeadBuild[Any]
