"""A recipe trained without each fold in turn: the raw outputs on what was left out, kept on disk, in all processes.

A training that was finished is not done again, whenever the build is broken off.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console

from build_engines.artefacts import key_of
from build_engines.code import code_digest
from build_engines.data.datasets import Prepared, layout_of_recipe
from build_engines.heads.fitted import Fitted
from build_engines.model.device import on_gpu
from build_engines.model.fitting import Outputs
from build_engines.model.kept import KeptRows
from build_engines.model.train import predict, train
from build_engines.recipe import Recipe, own_files
from calibration.spread import dismiss, once_each, spread

CODE = ("build_engines.model.train", "build_engines.data")
NOT_LEARNED = ("choose", "decision", "calibrate", "quantise", "compile", "gate", "budget", "trial")
"""Parts of a recipe that its weights do not depend on."""


@dataclass(frozen=True)
class LeftOut:
    """Raw outputs and truths, by head, of all moments, each by the model that was trained without its fold."""

    outputs: Outputs
    groups: tuple[str, ...]
    folds: NDArray[np.int64]

    def rows(self, wanted: NDArray[np.bool_]) -> Outputs:
        """Of the moments that are `wanted` [N]."""
        index = torch.from_numpy(np.flatnonzero(wanted))
        return {name: (output[index], truth[index]) for name, (output, truth) in self.outputs.items()}


class Job(Struct, frozen=True):
    """One training."""

    name: str
    recipe: Recipe
    data: str
    cache: str
    fold: int
    target: str
    """File for what came out."""


def crossed(
    candidates: Mapping[str, Recipe], data: Path, data_digest: str, work: Path, console: Console
) -> dict[str, LeftOut]:
    """Every candidate (by what it is called) trained without each fold. `work` holds caches and what came out.

    By all cores, a training to a process. Raises UserError.
    """
    jobs: list[Job] = []
    shape = _shape(next(iter(candidates.values())))
    for name, recipe in candidates.items():
        folder = work / "crossed" / _key(recipe, data_digest)
        folder.mkdir(parents=True, exist_ok=True)
        # The build's own tensors, or others beside them: a cache holds one kind.
        cache = work / "cache" if _shape(recipe) == shape else folder / "cache"
        jobs += [
            Job(name, recipe, str(data), str(cache), fold, str(folder / f"{fold}.npz"))
            for fold in range(recipe.choose.folds)
        ]
    waiting = [job for job in jobs if not Path(job.target).is_file()]
    for job in {job.cache: job for job in waiting}.values():
        _prepared(job)  # by all cores, before several processes want it
    _run(waiting, len(jobs), console)
    return {name: _gathered([job for job in jobs if job.name == name]) for name in candidates}


def _shape(recipe: Recipe) -> bytes:
    """What tensors of the data depend on."""
    return msgspec.json.encode([recipe.streams, recipe.modalities, recipe.dataset, recipe.tokenizer, recipe.head])


def _key(recipe: Recipe, data_digest: str) -> str:
    learned = {name: value for name, value in msgspec.to_builtins(recipe).items() if name not in NOT_LEARNED}
    # Offsets come after.
    learned["train"] = learned["train"] | {"offsets": False}
    files = own_files(recipe)
    return key_of([learned, recipe.choose.folds, files], {"data": data_digest, "code": code_digest(CODE)})[:16]


def _run(jobs: Sequence[Job], total: int, console: Console) -> None:
    start = time.monotonic()
    # A GPU has one queue: several processes would only wait for each other.
    most = 1 if any(on_gpu(job.recipe) for job in jobs) else len(jobs)
    figures = spread(partial(once_each, train_without), jobs, alone=2, piece=1, most=most)
    for done, (job, figure) in enumerate(zip(jobs, figures, strict=True), total - len(jobs) + 1):
        spent = time.monotonic() - start
        console.print(
            f"choose: {done} of {total} trainings, {spent:.0f} s: {job.name} without fold {job.fold + 1}, {figure}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    dismiss()  # they hold torch and the data


_ready: dict[bytes, Prepared] = {}
"""Of the process: the last recipe's data."""


def _prepared(job: Job) -> Prepared:
    key = msgspec.json.encode([job.recipe, job.data])
    if key not in _ready:
        _ready.clear()
        _ready[key] = layout_of_recipe(job.recipe).prepare(job.recipe, Path(job.data), Path(job.cache))
    return _ready[key]


def train_without(job: Job) -> str:
    """Train without one fold and keep the outputs on it; gives the figure there, in words.

    Where there are fewer folds, for there are fewer groups, it keeps an empty file.
    """
    prepared = _prepared(job)
    assert prepared.folds is not None  # the layout is one of `FOLDED`
    folds = prepared.folds(job.recipe.choose.folds, job.recipe.seed)
    arrays: dict[str, NDArray[Any]] = {}
    said = "which does not exist"
    if job.fold < len(folds):
        fold = folds[job.fold]()
        plain = msgspec.structs.replace(job.recipe, train=msgspec.structs.replace(job.recipe.train, offsets=False))
        seen = replace(prepared, train=fold.train, val=fold.judged)
        model = train(plain, "", seen, Console(file=io.StringIO()), fitted=Fitted(), watched=False).model
        kept = KeptRows(prepared.cache, plain.train.augment, plain.seed)
        for name in job.recipe.heads:
            output, truth = predict(model, fold.judged, name, kept)
            arrays |= {f"output {name}": output.numpy(), f"truth {name}": truth.numpy()}
        arrays["groups"] = np.array(fold.groups)
        figure = _figure(job.recipe, arrays)
        said = f"{figure[0]} {figure[1]:.3f}"
    fresh = Path(f"{job.target}.{os.getpid()}")
    with fresh.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes array names for flags
    fresh.replace(job.target)
    return said


def _figure(recipe: Recipe, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, float]:
    from build_engines.heads import build_of

    build = build_of(recipe.output_head)
    output, truth = torch.from_numpy(arrays["output "]), torch.from_numpy(arrays["truth "])
    return build.figure, build.trained_scores(recipe.output_head, output, truth)[1]


def _gathered(jobs: Sequence[Job]) -> LeftOut:
    parts = []
    for job in jobs:
        with np.load(job.target, allow_pickle=False) as held:
            parts.append({name: held[name] for name in held.files})
    folds = [(job.fold, part) for job, part in zip(jobs, parts, strict=True) if part]
    if not folds:
        return LeftOut({}, (), np.zeros(0, np.int64))

    def joined(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([part[name] for _, part in folds]))

    return LeftOut(
        {name: (joined(f"output {name}"), joined(f"truth {name}")) for name in jobs[0].recipe.heads},
        tuple(str(group) for _, part in folds for group in part["groups"]),
        np.concatenate([np.full(len(part["groups"]), fold) for fold, part in folds]),
    )
