"""Fusion heads on frozen encoders: features once, then many small trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import msgspec
import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor

from build_engines.comparison.split import Split
from build_engines.data.datasets import answer_names
from build_engines.heads import build_of, one_label_build
from build_engines.model.fused import FusedModel, Fusion
from build_engines.model.train import encode
from build_engines.recipe import FusionRecipe, Recipe

FOLDS = 5
EPOCHS = 12
BATCH = 256
RATE = 3e-3
FEWEST_STEPS = 60
"""Small sets are gone through more often: a head that has hardly moved says nothing of its features."""
Ints = NDArray[np.int64]


class GridPoint(Struct, frozen=True):
    """One choice of weights and what the folds said of it."""

    weights: dict[str, float]
    mean: float
    """Macro-F1 over the folds."""
    deviation: float


@torch.no_grad()
def features_of(model: FusedModel, split: Split) -> Tensor:
    """[N, n, d] of every moment; zeros where a modality is absent (fusion replaces them by its token)."""
    return torch.cat([encode(model, batch)[0] for batch in split.batches()])


def fit_fusion(
    recipe: Recipe,
    fusion: FusionRecipe,
    features: Tensor,
    presence: Tensor,
    labels: Tensor,
    weights: Sequence[float] = (),
    epochs: int = EPOCHS,
) -> Fusion:
    """A fusion head of the kind `fusion` fitted to features [N, n, d]; the same seed gives the same head."""
    torch.manual_seed(recipe.seed)
    head = Fusion(fusion, features.shape[1], features.shape[2], recipe.output_head, weights)
    counts = np.bincount(labels.numpy(), minlength=len(answer_names(recipe))).astype(float)
    plan = msgspec.structs.replace(recipe.train, class_weights={})
    loss_of = build_of(recipe.output_head).loss(recipe.output_head, counts, plan)
    batches = -(-len(labels) // BATCH)
    epochs = max(epochs, -(-FEWEST_STEPS // batches))
    steps = batches * epochs
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=recipe.train.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps, pct_start=0.1)
    head.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH):  # type: ignore[no-untyped-call]
            loss = loss_of(head(features[rows], presence[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return head.eval()


@torch.no_grad()
def predicted_by(recipe: Recipe, head: Fusion, features: Tensor, presence: Tensor) -> Ints:
    """The label's number of each moment."""
    numbers: Ints = one_label_build(recipe.output_head).predicted(head(features, presence))
    return numbers


def simplex(count: int) -> list[tuple[float, ...]]:
    """Weights of `count` modalities that are not negative and sum to 1, in steps of 0.1 (two) or 0.2 (more)."""
    steps = 10 if count == 2 else 5
    return [
        tuple(part / steps for part in parts)
        for parts in product(range(steps + 1), repeat=count)
        if sum(parts) == steps
    ]


def choose_weights(
    recipe: Recipe,
    features: Tensor,
    presence: Tensor,
    labels: Tensor,
    folds: Sequence[str],
    advance: Callable[[str], None] = lambda name: None,
) -> list[GridPoint]:
    """alpha, beta... of `fused = alpha V + beta T + ...` by k-fold cross-validation on the training split, best first.

    Every point of a grid on the simplex is fitted on k - 1 folds and judged on the one left out; what belongs together
    (an episode, a sentence) is never torn apart.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fusion = msgspec.structs.replace(recipe.model.fusion, kind="weighted", weights={})
    truth = labels.numpy()
    splitter = StratifiedGroupKFold(min(FOLDS, len(set(folds))), shuffle=True, random_state=recipe.seed)
    parts = [
        (torch.from_numpy(fit), torch.from_numpy(judged)) for fit, judged in splitter.split(truth, truth, list(folds))
    ]
    points = []
    for weights in simplex(features.shape[1]):
        scores = []
        for fit, judged in parts:
            head = fit_fusion(recipe, fusion, features[fit], presence[fit], labels[fit], weights, epochs=4)
            predicted = predicted_by(recipe, head, features[judged], presence[judged])
            scores.append(float(f1_score(truth[judged], predicted, average="macro", zero_division=0)))
        names = dict(zip(recipe.modalities, weights, strict=True))
        points.append(GridPoint(names, round(float(np.mean(scores)), 5), round(float(np.std(scores)), 5)))
        advance("weights " + " ".join(f"{value:g}" for value in weights))
    return sorted(points, key=lambda point: -point.mean)
