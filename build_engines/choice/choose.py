"""Which candidate is taken, from what each says of moments left out.

Every candidate's decisions on a fold are made with what was fitted (temperature, thresholds, offsets) to the other
folds; those of the whole procedure, with the candidate that the other folds alone would have chosen too. So what is
expected of the procedure includes what choosing flatters (Tsamardinos, Greasidou and Borboudakis 2018,
arXiv:1708.07180).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.choice.choice import Choice, Decided, Trial
from build_engines.choice.crossed import LeftOut
from build_engines.data.datasets import names_of
from build_engines.heads import build_of
from build_engines.heads.fitted import Fitted, fitted_policy
from build_engines.heads.intervals import drawn_groups
from build_engines.heads.kind import Pairs
from build_engines.heads.prediction import Prediction
from build_engines.model.fitting import fit
from build_engines.recipe import Recipe
from build_engines.recipe.variant import alone, in_words, with_settings
from edge_runtime.heads import Head
from edge_runtime.heads.policy import PolicyState
from edge_runtime.heads.regression import RegressionHead

OWN = "the recipe as it is"
DRAWS = 300


@dataclass(frozen=True)
class Candidate:
    """One way to train."""

    name: str
    recipe: Recipe
    settings: Mapping[str, Any]
    alone: str = ""


def candidates_of(recipe: Recipe) -> list[Candidate]:
    """The recipe's own first, then its candidates, then each modality alone where that is wanted."""
    found = [Candidate(OWN, recipe, {})]
    for settings in recipe.choose.candidates:
        found.append(Candidate(in_words(settings), with_settings(recipe, settings), settings))
    encoders = recipe.model.encoders
    if recipe.choose.single and len(encoders) > 1:
        found += [Candidate(f"{name} alone", alone(recipe, name), {}, name) for name in encoders]
    return found


def choose(candidates: Sequence[Candidate], left_out: Mapping[str, LeftOut]) -> tuple[Choice, list[Decided]]:
    """The choice, and the whole procedure's decisions on every moment. `left_out`: by the candidates' names."""
    own = candidates[0]
    folds, groups = left_out[own.name].folds, left_out[own.name].groups
    decisions = [_crossed_decisions(one.recipe, left_out[one.name]) for one in candidates]
    pairs = [_pairs(own.recipe.output_head, made) for made in decisions]
    draws = drawn_groups(groups, DRAWS, np.random.default_rng(own.recipe.seed), len(set(groups)))
    trials = _trials(candidates, pairs, draws)
    taken = _take(candidates, trials)
    chosen = candidates[taken]
    procedure: list[Decided] = []
    for fold in sorted(set(folds.tolist())):
        elsewhere = folds != fold
        others = [_pairs(own.recipe.output_head, _where(made, elsewhere)) for made in decisions]
        inner = [group for group, kept in zip(groups, elsewhere, strict=True) if kept]
        count = len(set(inner))
        # Where one group remains, nothing tells how sure a difference is: nothing is chosen.
        best = 0
        if count > 1:
            redrawn = drawn_groups(inner, DRAWS, np.random.default_rng(own.recipe.seed), count)
            best = _take(candidates, _trials(candidates, others, redrawn))
        procedure += [Decided(fold, decisions[best][row]) for row in np.flatnonzero(folds == fold)]
    fitted = fit(chosen.recipe, left_out[chosen.name].outputs)
    choice = Choice(
        _note(candidates, trials, taken, len(set(folds.tolist())), len(set(groups))), dict(chosen.settings),
        chosen.alone, fitted,
        tuple(msgspec.structs.replace(trial, taken=place == taken) for place, trial in enumerate(trials)),
    )  # fmt: skip
    return choice, procedure


def _crossed_decisions(recipe: Recipe, left_out: LeftOut) -> list[Prediction]:
    """Each moment decided with what was fitted to the folds that it is not in."""
    made: list[Prediction | None] = [None] * len(left_out.groups)
    for fold in sorted(set(left_out.folds.tolist())):
        here = left_out.folds == fold
        # With one fold's worth of moments and no other there is nothing to fit to; there are at least two folds.
        fitted = fit(recipe, left_out.rows(~here))
        output, truth = left_out.rows(here)[""]
        said = decide(recipe, fitted, output.numpy(), truth.numpy())
        for row, prediction in zip(np.flatnonzero(here), said, strict=True):
            made[row] = msgspec.structs.replace(prediction, id=f"{fold}/{row}", group=left_out.groups[row])
    return [prediction for prediction in made if prediction is not None]


def decide(recipe: Recipe, fitted: Fitted, output: NDArray[Any], truth: NDArray[Any]) -> list[Prediction]:
    """What the first head says of raw outputs [N, outputs], moment by moment, beside truths."""
    head, policy = recipe.output_head, fitted_policy(recipe.decision, fitted.policy)
    moved = output + np.asarray(fitted.offsets, output.dtype) if fitted.offsets else output
    names = names_of(head)
    said = []
    for row, right in zip(moved, truth, strict=True):
        verdict, _ = head.decide(policy, PolicyState(), row, None)
        values = dict(verdict.values) if isinstance(verdict.values, dict) else {}
        said.append(
            Prediction(
                "", names[int(right)] if names else "", verdict.label, verdict.confidence, verdict.source,
                verdict.reason, dict(verdict.probabilities), head=head.kind, tags=verdict.tags, values=values,
                truth_values=_values(head, right),
            )
        )  # fmt: skip
    return said


def _values(head: Head, right: NDArray[Any]) -> dict[str, float]:
    if not isinstance(head, RegressionHead):
        return {}
    return {value.name: float(number) for value, number in zip(head.values, right, strict=True)}


def _pairs(head: Head, made: Sequence[Prediction]) -> Pairs:
    return build_of(head).pairs(head, made)


def _where(made: Sequence[Prediction], wanted: NDArray[np.bool_]) -> list[Prediction]:
    return [prediction for prediction, kept in zip(made, wanted, strict=True) if kept]


def _trials(candidates: Sequence[Candidate], pairs: Sequence[Pairs], draws: Sequence[NDArray[np.int64]]) -> list[Trial]:
    own = pairs[0].bootstrap(draws)
    return [
        Trial(
            candidate.name, round(one.scores.figure, 6), round(one.scores.figure - pairs[0].scores.figure, 6),
            round(float((one.bootstrap(draws) - own).std()), 6),
        )
        for candidate, one in zip(candidates, pairs, strict=True)
    ]  # fmt: skip


def _take(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> int:
    """The best of those that are surely better than the recipe's own, or that; a single modality if it is no worse."""
    fused = [place for place, one in enumerate(candidates) if not one.alone]
    better = [place for place in fused if trials[place].difference > trials[place].error]
    best = max(better, key=lambda place: trials[place].figure, default=0)
    single = [place for place, one in enumerate(candidates) if one.alone]
    strongest = max(single, key=lambda place: trials[place].figure, default=best)
    return strongest if trials[strongest].figure >= trials[best].figure else best


def _note(candidates: Sequence[Candidate], trials: Sequence[Trial], taken: int, folds: int, groups: int) -> str:
    build = build_of(candidates[0].recipe.output_head)
    best = trials[taken]
    said = f"{best.name}: {build.figure} {best.figure:.3f} on moments left out ({folds} folds of {groups} groups)"
    if candidates[taken].alone:
        fused = max((trial for trial, one in zip(trials, candidates, strict=True) if not one.alone), key=_by_figure)
        said += f"; fusing does not help ({fused.name}: {fused.figure:.3f}), so it ships alone"
    elif len(candidates) > 1:
        others = ", ".join(f"{trial.name} {trial.difference:+.3f}" for trial in trials[1:] if trial is not best)
        said += f"; against {OWN}: {others}" if others else ""
    return said


def _by_figure(trial: Trial) -> float:
    return trial.figure
