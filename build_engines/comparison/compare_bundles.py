"""Bundles that are there already, on the same moments: what each is worth, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from build_engines.build import Build
from build_engines.comparison.comparison import Comparison
from build_engines.comparison.contest import Contest
from build_engines.comparison.front import places
from build_engines.comparison.timed import times_of
from build_engines.data.datasets import layout_of_recipe
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.heads import build_of
from calibration.moments import LabelledSet
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.infer.timing import graphs_of
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import StreamSpec


def compare_bundles(build: Build, bundles: Sequence[Bundle]) -> Comparison:
    """`bundles` by the model's own answers on the split that the recipe evaluates on. Raises UserError for bundles that
    do not answer the same question."""
    recipe = build.recipe
    names = names_of(bundles)
    read = partial(layout_of_recipe(recipe).read, build.data, recipe.evaluate_split)
    contest: Contest | None = None
    asked: list[str] = []
    graphs = {}
    for name, bundle in zip(names, bundles, strict=True):
        head = bundle.manifest.head
        if answers(bundle) != answers(bundles[0]):
            raise UserError(
                f"compare: {name} answers with {head.summary}, {names[0]} with another; compare like with like"
            )
        build.console.print(f"compare: {name}", highlight=False)
        found = _evaluated(bundle, read)
        moments = [prediction.id for prediction in found.predictions]
        pairs = found.pairs(model=True)
        if contest is None:
            contest, asked = Contest(pairs.groups, recipe.seed), moments
        if moments != asked:
            raise UserError(f"compare: {name} decides at other moments than {names[0]}: their triggers differ")
        contest.add(name, "bundle", pairs, f"{bundle.manifest.name} {bundle.manifest.version}")
        graphs[name] = graphs_of(bundle, bundle.plan("onnxruntime"))
    assert contest is not None
    spent = times_of(graphs)
    rows = tuple(msgspec.structs.replace(row, ms=spent[row.name]) for row in contest.rows)
    best = max(rows, key=lambda row: row.figure.value)
    front = places(contest, rows)
    ahead = ", ".join(f"{place.name} ({place.ms:.2f} ms)" for place in front if not place.behind)
    figure = build_of(bundles[0].manifest.head).figure
    return Comparison(
        recipe.name, recipe.evaluate_split, len(asked),
        "The bundles' models by themselves, without the policy, through the device's own code.",
        rows, tuple(contest.duel(best.name, row.name) for row in rows if row.name != best.name),
        f"on the front of {figure} against time: {ahead}", figure=figure, front=front, budget_ms=recipe.budget.ms,
    )  # fmt: skip


def answers(bundle: Bundle) -> object:
    """What two bundles must have in common to be compared: the kind of head and its labels or values."""
    return msgspec.structs.replace(bundle.manifest.head, output="")


def names_of(bundles: Sequence[Bundle]) -> list[str]:
    """What to call them: each by its folder or file, with as much of the path as tells them apart. Raises UserError for
    one that is given twice."""
    found = (bundle.path.resolve() for bundle in bundles)
    paths = [path.with_suffix("") if path.suffix == ".tar" else path for path in found]
    if len(set(paths)) < len(paths):
        raise UserError("compare: a bundle is given twice; give each once")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path.parts[-length:]) for path in paths]


def _evaluated(bundle: Bundle, read: Callable[[Mapping[str, StreamSpec]], Iterator[LabelledSet]]) -> Evaluation:
    pipeline = Pipeline(bundle)
    try:
        return evaluate(pipeline, read(pipeline.streams))
    finally:
        pipeline.close()
