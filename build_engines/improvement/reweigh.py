"""Fine-tune the fusion head with more weight on the worst labels; encoders stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
import torch

from build_engines.build import Build
from build_engines.comparison.frozen import BATCH, features_of
from build_engines.comparison.split import read_split
from build_engines.data.datasets import answer_names, layout_of_recipe
from build_engines.evaluation.degrade import limited
from build_engines.heads import build_of
from build_engines.heads.kind import Loss
from build_engines.model.export import export
from build_engines.model.train import Trained, load_trained, predict, save
from build_engines.model.trained_bundle import write_trained
from build_engines.recipe import Recipe
from edge_runtime.bundle import Bundle

FACTOR = 2.0
EPOCHS = 3
FEWEST_STEPS = 100
RATE = 1e-3
MOST = 20_000


def reweighed(build: Build, recipe: Recipe, worst: Sequence[str]) -> tuple[Bundle, str]:
    """The FP32 bundle of the recipe's model fine-tuned on the training split, below `work`/improved, and the line for
    the recipe. Raises UserError if there is no trained model."""
    folder = (build.work / build.model).parent
    prepared = layout_of_recipe(recipe).prepare(recipe, build.data, build.work / "cache")
    trained = load_trained(recipe, folder)
    read = partial(layout_of_recipe(recipe).read, build.data, "train", prepared.streams)
    split = read_split(recipe, prepared, limited(read, MOST)())
    names = {name: index for index, name in enumerate(answer_names(recipe))}
    labels = torch.tensor([names[label] for label in split.labels])
    plan = recipe.train
    weights = plan.class_weights | {name: plan.class_weights.get(name, 1.0) * FACTOR for name in worst if name in names}
    weights = {name: weight for name, weight in weights.items() if name in recipe.labels}
    line = "class_weights = { " + ", ".join(
        f"{msgspec.json.encode(name).decode()} = {weight:g}" for name, weight in weights.items()
    ) + " }"  # fmt: skip
    tuned = copy.deepcopy(trained.model)
    counts = np.bincount(labels.numpy(), minlength=len(names)).astype(float)
    head = recipe.output_head
    row = build_of(head)
    loss_of = row.loss(head, counts, msgspec.structs.replace(plan, class_weights=weights))
    _fit(recipe, tuned, features_of(trained.model, split), torch.from_numpy(split.presence), labels, loss_of)
    temperature = row.fitted(head, *predict(tuned, prepared.val))["temperature"]
    record = msgspec.structs.replace(trained.record, temperature=temperature)
    result = Trained(tuned.eval(), record)
    target = build.work / "improved"
    save(recipe, result, prepared, target)
    export(recipe, result, target)
    return write_trained(recipe, record, target, target / "model"), line


def _fit(
    recipe: Recipe, model: torch.nn.Module, features: torch.Tensor, presence: torch.Tensor, labels: torch.Tensor,
    loss_of: Loss,
) -> None:  # fmt: skip
    torch.manual_seed(recipe.seed)
    head = model.fusion
    assert isinstance(head, torch.nn.Module)
    drop = torch.tensor([recipe.train.modality_dropout.get(name, 0.0) for name in recipe.modalities])
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=recipe.train.weight_decay)
    head.train()
    for _ in range(max(EPOCHS, -(-FEWEST_STEPS * BATCH // len(labels)))):
        for rows in torch.randperm(len(labels)).split(BATCH):  # type: ignore[no-untyped-call]
            present = presence[rows]
            dropped = (torch.rand_like(present) < drop) & (present > 0)
            dropped &= ((present > 0) & ~dropped).any(1, keepdim=True)
            loss = loss_of(head(features[rows], present * ~dropped), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    head.eval()
