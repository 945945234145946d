"""Choosing: the recipe trained without each fold of the training split, and what follows from the moments left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from build_engines.build import Build
from build_engines.stages.stage import BuildStage, training_settings

if TYPE_CHECKING:
    from build_engines.choice.choose import Candidate


def choose_stage(build: Build) -> None:
    """Candidates, each trained without every fold, to the one that the model is trained as."""
    from build_engines.choice.choice import Choice, write_choice
    from build_engines.choice.choose import candidates_of, choose
    from build_engines.choice.crossed import LeftOut, crossed
    from build_engines.data.datasets import FOLDED
    from build_engines.recipe import Recipe

    recipe = build.recipe
    assert isinstance(recipe, Recipe)

    members = recipe.model.members

    def left_out_by(recipes: Mapping[str, Recipe]) -> dict[str, LeftOut]:
        return crossed(recipes, build.data, build.split_digest("train"), build.work, build.console, recipe.seed)

    def together(taken: Sequence[Candidate]) -> dict[str, LeftOut]:
        # What the first member said is there already.
        names = {one.name: [f"{one.name}, member {place + 1}" for place in range(members)] for one in taken}
        found = left_out_by(
            {name: member for one in taken for name, member in zip(names[one.name], one.recipe.members, strict=True)}
        )
        return {name: LeftOut.mean([found[member] for member in each]) for name, each in names.items()}

    candidates = candidates_of(recipe)
    why, folds = "", 0
    if not recipe.choose.folds:
        why = "choose.folds is 0"
    elif recipe.layout not in FOLDED:
        why = f"the layout {recipe.layout} has no folds"
    else:
        left_out = left_out_by({one.name: one.recipe.members[0] for one in candidates})
        folds = len(set(left_out[candidates[0].name].folds.tolist()))
        why = "the training split is one group"
    if folds < 2:
        note = f"nothing is left out: {why}; what is fitted, is fitted on {recipe.evaluate_split}"
        write_choice(build.work, Choice(note), ())
    else:
        choice, decided = choose(candidates, left_out, together if members > 1 else None)
        note = choice.note
        write_choice(build.work, choice, decided)
    build.console.print(f"choose: {note}", highlight=False, soft_wrap=True)


STAGE = BuildStage(
    choose_stage,
    code=("build_engines.choice", "build_engines.model.train", "build_engines.data"),
    requires=lambda build: (),
    ensures=lambda build: ("choose/choice.json", "choose/left_out.jsonl"),
    # The policy decides about the moments left out too.
    settings=lambda build: [training_settings(build), build.recipe.decision],
    splits=lambda build: ("train",),
)
