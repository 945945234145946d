"""Choosing: the recipe trained without each fold of the training split, and what follows from the moments left out."""

from __future__ import annotations

from build_engines.build import Build
from build_engines.stages.stage import BuildStage, training_settings


def choose_stage(build: Build) -> None:
    """Candidates, each trained without every fold, to the one that the model is trained as."""
    from build_engines.choice.choice import Choice, write_choice
    from build_engines.choice.choose import candidates_of, choose
    from build_engines.choice.crossed import crossed
    from build_engines.data.datasets import FOLDED
    from build_engines.recipe import Recipe

    recipe = build.recipe
    assert isinstance(recipe, Recipe)
    candidates = candidates_of(recipe)
    why, folds = "", 0
    if not recipe.choose.folds:
        why = "choose.folds is 0"
    elif recipe.layout not in FOLDED:
        why = f"the layout {recipe.layout} has no folds"
    else:
        recipes = {one.name: one.recipe for one in candidates}
        left_out = crossed(recipes, build.data, build.split_digest("train"), build.work, build.console)
        folds = len(set(left_out[candidates[0].name].folds.tolist()))
        why = "the training split is one group"
    if folds < 2:
        note = f"nothing is left out: {why}; what is fitted, is fitted on {recipe.evaluate_split}"
        write_choice(build.work, Choice(note), ())
    else:
        choice, decided = choose(candidates, left_out)
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
