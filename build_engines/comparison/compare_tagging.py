"""The comparison of a tagging head: one modality, so only the classical tagger to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from build_engines.build import Build
from build_engines.comparison.classical_tagging import classical_tags
from build_engines.comparison.comparison import Comparison
from build_engines.comparison.contest import Contest
from build_engines.comparison.front import places
from build_engines.comparison.timed import exported, times_of
from build_engines.data.datasets import layout_of_recipe
from build_engines.data.ner import evaluated, sentences, text_stream
from build_engines.heads.labelled import LabelPairs
from build_engines.heads.tagging import report
from build_engines.model.train import WEIGHTS, load_trained, predict, train
from build_engines.recipe import Recipe
from edge_runtime.heads.tagging import best_path

Tags = Sequence[Sequence[str]]


def compare_tagging(build: Build, recipe: Recipe) -> Comparison:
    """The recipe's tagger (as built, else trained now) against the classical one, word by word.

    Words beyond what the model reads are left out for both.
    """
    prepared = layout_of_recipe(recipe).prepare(recipe, build.data, build.work / "cache")
    folder = (build.work / build.model).parent
    if (folder / WEIGHTS).is_file():
        trained = load_trained(recipe, folder)
    else:
        trained = train(recipe, build.recipe_digest, prepared, build.console)
    logits, _ = predict(trained.model, prepared.val)
    fit, judged = (
        [(sentence.words, sentence.tags) for sentence in tagged]
        for tagged in (sentences(build.data, "train"), evaluated(recipe, build.data))
    )
    _, spec = text_stream(recipe.streams)
    read = [min(len(words), spec.max_tokens) for words, _ in judged]
    classic = [tags[:count] for tags, count in zip(classical_tags(fit, judged), read, strict=True)]
    truth = [tags[:count] for (_, tags), count in zip(judged, read, strict=True)]
    sentences_read = np.split(logits.numpy(), np.cumsum(read)[:-1])
    paths = [best_path(part, recipe.labels) for part in sentences_read]
    neural = [[recipe.labels[index] for index in path] for path in paths]
    groups = [str(index) for index, count in enumerate(read) for _ in range(count)]
    contest = Contest(groups, recipe.seed)
    right = [tag for tags in truth for tag in tags]
    for name, kind, tags in (("text", "single", neural), ("classical tagger", "classical", classic)):
        said = [tag for sentence in tags for tag in sentence]
        contest.add(name, kind, LabelPairs(right, said, recipe.labels, groups), _spans(truth, tags))
    spent = times_of({"text": exported(recipe, prepared.streams, trained.model)})
    rows = tuple(msgspec.structs.replace(row, ms=spent.get(row.name)) for row in contest.rows)
    return Comparison(
        recipe.name, recipe.evaluate_split, len(judged),
        "Word by word; words beyond what the model reads are left out. Notes: entities found exactly.",
        rows, (contest.duel("text", "classical tagger"),),
        f"{recipe.name} has one modality (text): there is nothing to fuse", front=places(contest, rows),
        budget_ms=recipe.budget.ms,
    )  # fmt: skip


def _spans(truth: Tags, answers: Tags) -> str:
    return f"entity F1 {report(truth, answers).spans_micro.f1:.3f}"
