"""Does fusion help? Each modality alone, every way of fusing and classical methods, on the same moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from build_engines.build import Build
from build_engines.choice.choice import chosen_recipe
from build_engines.comparison.classical import classical
from build_engines.comparison.compare_tagging import compare_tagging
from build_engines.comparison.comparison import Comparison
from build_engines.comparison.contest import Contest
from build_engines.comparison.front import places
from build_engines.comparison.frozen import GridPoint, choose_weights, features_of, fit_fusion, predicted_by, simplex
from build_engines.comparison.split import read_split
from build_engines.comparison.timed import Assembled, exported, times_of
from build_engines.data.datasets import Batch, Prepared, Source, answer_names, layout_of_recipe
from build_engines.evaluation.degrade import limited
from build_engines.evaluation.report import words
from build_engines.heads.labelled import LabelHead, LabelPairs
from build_engines.model.export import Staged
from build_engines.model.fused import Fusion
from build_engines.model.train import WEIGHTS, Trained, load_trained, train
from build_engines.recipe import FusionRecipe, Recipe
from edge_runtime.errors import UserError
from edge_runtime.infer.timing import Graph

KINDS = ("concat", "weighted", "gated", "attention")
MOST = 12_000
"""Training moments that heads on frozen encoders and classical methods see: whole groups, evenly chosen."""


def compare(build: Build, shared: bool = False, epochs: int | None = None) -> Comparison:
    """Train and judge every row. `shared`: heads on the recipe's own frozen encoders instead of a training each.

    Raises UserError for an own ONNX model, which cannot be trained.
    """
    if not isinstance(build.recipe, Recipe):
        raise UserError(
            f"compare: {build.recipe.name} is an ONNX model of one's own; there is nothing to train: give bundles to "
            "compare (--bundle)"
        )
    recipe = build.recipe
    head = recipe.output_head
    if head.per_word:
        return compare_tagging(build, _shortened(recipe, epochs))
    if not isinstance(head, LabelHead):
        raise UserError(f"compare: is for heads with labels; {recipe.name} has a {head.kind} head")
    prepared = layout_of_recipe(recipe).prepare(recipe, build.data, build.work / "cache")
    arena = _Arena(build, _shortened(recipe, epochs), prepared, shared)
    arena.run()
    return arena.result()


def _shortened(recipe: Recipe, epochs: int | None) -> Recipe:
    if epochs is None:
        return recipe
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, epochs=epochs))


class _Arena:
    """One comparison of a head with labels. One thread."""

    def __init__(self, build: Build, recipe: Recipe, prepared: Prepared, shared: bool) -> None:
        self.build, self.recipe, self.prepared, self.shared = build, recipe, prepared, shared
        layout = layout_of_recipe(recipe)
        read = partial(layout.read, build.data, "train", prepared.streams)
        self.train = read_split(recipe, prepared, limited(read, MOST)())
        self.val = read_split(recipe, prepared, layout.read(build.data, recipe.evaluate_split, prepared.streams))
        self.names = answer_names(recipe)
        self.numbers = {name: index for index, name in enumerate(self.names)}
        self.labels = torch.tensor([self.numbers[name] for name in self.train.labels])
        self.contest = Contest(self.val.groups, recipe.seed)
        self.graphs: dict[str, list[Graph]] = {}
        """Of the contestants that a device could run."""
        self.grid: list[GridPoint] = []

    def run(self) -> None:
        console, recipe = self.build.console, self.recipe
        base, origin = self._base()
        features, judged = features_of(base.model, self.train), features_of(base.model, self.val)
        groups = modality_groups(recipe)
        if len(groups) > 1:
            with _bar(console, len(simplex(len(recipe.modalities)))) as advance:
                self.grid = choose_weights(
                    recipe, features, torch.from_numpy(self.train.presence), self.labels, self.train.folds(), advance
                )
        for name, columns in groups.items():
            self._single(name, columns, features, judged, base, origin)
        if len(groups) > 1:
            for kind in KINDS:
                self._fusion(kind, features, judged, base, origin)
        with _bar(console, 3) as advance:
            for name, answers in classical(self.train, self.val, recipe.seed, advance).items():
                self.contest.add(name, "classical", self._pairs(answers))

    def _base(self) -> tuple[Trained, str]:
        """The recipe's own model: what the build left in the work folder if encoders are shared, else a new one."""
        folder = self.build.work / self.build.model
        if self.shared and (folder.parent / WEIGHTS).is_file() and self._is_own():
            return load_trained(self.recipe, folder.parent), "built before"
        self.build.console.print(f"compare: {self.recipe.model.fusion.kind} (the recipe's own)")
        return train(self.recipe, self.build.recipe_digest, self.prepared, self.build.console), ""

    def _is_own(self) -> bool:
        """Whether the build trained the recipe as it stands: another choice has other encoders."""
        return chosen_recipe(self.recipe, self.build.work).model == self.recipe.model

    def _single(
        self, name: str, columns: Sequence[int], features: torch.Tensor, judged: torch.Tensor, base: Trained,
        origin: str,
    ) -> None:  # fmt: skip
        if len(columns) == len(self.recipe.modalities):  # there is only one: the recipe's own model
            self._add(name, "single", self.recipe, base, origin)
        elif self.shared:
            places = list(columns)
            train_presence = torch.from_numpy(self.train.presence)[:, places]
            presence = torch.from_numpy(self.val.presence)[:, places]
            head = fit_fusion(self.recipe, FusionRecipe("concat"), features[:, places], train_presence, self.labels)
            recipe, _ = only(self.recipe, self.prepared, name)
            model = Assembled({name: base.model.encoders[name]}, head)
            self._judge(name, "single", predicted_by(self.recipe, head, judged[:, places], presence), "", recipe, model)
        else:
            self.build.console.print(f"compare: {name} alone")
            recipe, prepared = only(self.recipe, self.prepared, name)
            trained = train(recipe, self.build.recipe_digest, prepared, self.build.console)
            self._add(name, "single", recipe, trained, "", list(columns))

    def _fusion(self, kind: str, features: torch.Tensor, judged: torch.Tensor, base: Trained, origin: str) -> None:
        own = kind == self.recipe.model.fusion.kind
        name = f"{kind} (the recipe's)" if own else kind
        weights = self.grid[0].weights if kind == "weighted" else {}
        note = ", ".join(f"{stream} {value:g}" for stream, value in weights.items())
        fusion = msgspec.structs.replace(self.recipe.model.fusion, kind=kind, weights=weights)
        if own and not (kind == "weighted" and self.recipe.model.fusion.weights != weights):
            self._add(name, "fusion", self.recipe, base, origin or note)
        elif self.shared:
            values = tuple(weights[stream] for stream in self.recipe.modalities) if weights else ()
            presence = torch.from_numpy(self.train.presence)
            head = fit_fusion(self.recipe, fusion, features, presence, self.labels, values)
            val_presence = torch.from_numpy(self.val.presence)
            predicted = predicted_by(self.recipe, head, judged, val_presence)
            self._judge(name, "fusion", predicted, note, self.recipe, Assembled(base.model.encoders, head))
        else:
            self.build.console.print(f"compare: {kind}")
            model = msgspec.structs.replace(self.recipe.model, fusion=fusion)
            recipe = msgspec.structs.replace(self.recipe, model=model)
            trained = train(recipe, self.build.recipe_digest, self.prepared, self.build.console)
            self._add(name, "fusion", recipe, trained, note)

    def _add(
        self, name: str, kind: str, recipe: Recipe, trained: Trained, note: str, columns: Sequence[int] | None = None
    ) -> None:
        fusion = trained.model.fusion
        assert isinstance(fusion, Fusion)
        places = list(columns if columns is not None else range(len(self.recipe.modalities)))
        presence = torch.from_numpy(self.val.presence)[:, places]
        predicted = predicted_by(self.recipe, fusion, features_of(trained.model, self.val), presence)
        self._judge(name, kind, predicted, note, recipe, trained.model)

    def _judge(
        self, name: str, kind: str, predicted: NDArray[np.int64], note: str, recipe: Recipe, model: Staged
    ) -> None:
        """`model`, which `recipe` describes: the one that said `predicted`."""
        self.contest.add(name, kind, self._pairs([self.names[index] for index in predicted]), note)
        self.graphs[name] = exported(recipe, self.prepared.streams, model)

    def _pairs(self, answers: Sequence[str]) -> LabelPairs:
        return LabelPairs(self.val.labels, answers, self.names, self.val.groups)

    def result(self) -> Comparison:
        contest, recipe = self.contest, self.recipe
        single, classic = contest.best("single"), contest.best("classical")
        assert single is not None and classic is not None
        if contest.best("fusion") is None:
            duels = [contest.duel(single.name, classic.name)]
            verdict = f"{recipe.name} has one modality ({single.name}): there is nothing to fuse"
        else:
            own = next(row for row in contest.rows if row.name.endswith("(the recipe's)"))
            duels = [contest.duel(own.name, single.name), contest.duel(own.name, classic.name)]
            helps = duels[0].difference.low > 0
            verdict = (
                f"fusion {'helps' if helps else 'is not proven to help'}: {own.name} {words(own.figure)}, "
                f"best single modality {single.name} {words(single.figure)}"
            )
        spent = times_of(self.graphs)
        rows = tuple(msgspec.structs.replace(row, ms=spent.get(row.name)) for row in contest.rows)
        method = (
            f"Every neural row but the recipe's own is a head on the recipe's own encoders, frozen, fitted to "
            f"{len(self.train.labels)} moments of the training split."
            if self.shared
            else f"Every neural row was trained end to end for {recipe.train.epochs} epochs."
        ) + f" Classical methods saw {len(self.train.labels)} moments of the training split."
        return Comparison(
            recipe.name, recipe.evaluate_split, len(self.val.labels), method, rows, tuple(duels), verdict,
            tuple(self.grid), front=places(contest, rows), budget_ms=recipe.budget.ms,
        )  # fmt: skip


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    with Progress(
        TextColumn("compare"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)
        yield lambda note: bar.update(task, advance=1, description=note)


def modality_groups(recipe: Recipe) -> dict[str, list[int]]:
    """Encoder to its places in the presence mask: all cameras are one modality."""
    places: dict[str, list[int]] = {}
    for name, encoder in recipe.model.encoders.items():
        start = sum(map(len, places.values()))
        places[name] = list(range(start, start + len(encoder.streams)))
    return places


def only(recipe: Recipe, prepared: Prepared, encoder: str) -> tuple[Recipe, Prepared]:
    """`recipe` with only one of its encoders, and data to match. The labels stay what is right with all known."""
    columns = modality_groups(recipe)[encoder]
    names = [recipe.modalities[place] for place in columns]
    fusion = FusionRecipe("concat", recipe.model.fusion.width, dropout=recipe.model.fusion.dropout)
    model = msgspec.structs.replace(recipe.model.only(encoder), fusion=fusion)
    plan = recipe.train
    dropout = {name: chance for name, chance in plan.modality_dropout.items() if name in names}
    alone = msgspec.structs.replace(recipe, model=model, train=msgspec.structs.replace(plan, modality_dropout=dropout))
    return alone, replace(
        prepared,
        train=_Only(prepared.train, columns),
        val=[_without_others(batch, columns) for batch in prepared.val],
    )


def _without_others(batch: Batch, columns: Sequence[int]) -> Batch:
    # What is right without an absent stream is another question: here all labels are those with everything known.
    return replace(batch, presence=np.ascontiguousarray(batch.presence[:, list(columns)]), label_without={})


class _Only:
    """A source whose batches show only some modalities."""

    def __init__(self, source: Source, columns: Sequence[int]) -> None:
        self._source, self._columns = source, columns
        self.counts: NDArray[np.float64] = source.counts
        self.aux_counts: Mapping[str, NDArray[np.float64]] = source.aux_counts
        self.side_counts: Mapping[str, NDArray[np.float64]] = source.side_counts
        self.steps: int = source.steps

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch's batches."""
        return (_without_others(batch, self._columns) for batch in self._source.epoch(rng))
