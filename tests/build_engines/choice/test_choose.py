"""Which candidate is taken, and that no fold has a say in how it is decided itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import build_engines
from build_engines.choice.choice import (
    CHOICE,
    Choice,
    as_chosen,
    chosen_recipe,
    read_choice,
    read_decided,
    write_choice,
)
from build_engines.choice.choose import Candidate, candidates_of, choose
from build_engines.choice.crossed import LeftOut
from build_engines.recipe import Recipe, check, load_recipe
from build_engines.recipe.variant import alone, with_settings
from edge_runtime.errors import ConfigError, UserError

GROUPS, SIZE = 8, 40


def left_out(seed: int, skill: float, offset: float = 0.0) -> LeftOut:
    """Logits of four labels for eight groups in four folds; `skill` is how much the right one stands out."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(0).integers(0, 4, GROUPS * SIZE)
    logits = rng.normal(size=(GROUPS * SIZE, 4))
    logits[np.arange(len(truth)), truth] += skill
    logits[:, 0] += offset
    groups = tuple(f"g{index // SIZE}" for index in range(len(truth)))
    folds = np.array([index // SIZE % 4 for index in range(len(truth))])
    outputs = {"": (torch.tensor(logits, dtype=torch.float32), torch.tensor(truth))}
    return LeftOut(outputs, groups, folds)


@pytest.fixture
def candidates(recipe: Recipe) -> list[Candidate]:
    choice = msgspec.structs.replace(recipe.choose, candidates=({"train.epochs": 3},), single=True)
    return candidates_of(msgspec.structs.replace(recipe, choose=choice))


def test_candidates_are_the_recipe_s_own_the_listed_and_each_modality(candidates: list[Candidate]) -> None:
    own, other, *single = candidates
    assert other.recipe.train.epochs == 3
    assert msgspec.structs.replace(other.recipe.train, epochs=own.recipe.train.epochs) == own.recipe.train
    assert [one.alone for one in single] == ["vision", "text", "sensors"]
    assert single[1].recipe.modalities == ("text",)
    # The trigger stays, what nothing reads is gone.
    assert set(single[1].recipe.streams) == {"text", "camera.front"}
    assert set(single[1].recipe.train.modality_dropout) <= {"text", "camera.front"}


def test_a_surely_better_candidate_is_taken_and_an_equal_one_is_not(candidates: list[Candidate]) -> None:
    own, other = candidates[:2]
    choice, _ = choose([own, other], {own.name: left_out(1, 1.0), other.name: left_out(2, 2.5)})
    assert choice.settings == {"train.epochs": 3}
    assert [trial.taken for trial in choice.trials] == [False, True]
    assert choice.trials[1].difference > choice.trials[1].error > 0
    assert as_chosen(own.recipe, choice).train.epochs == 3
    same, _ = choose([own, other], {own.name: left_out(1, 1.0), other.name: left_out(1, 1.0)})
    assert same.settings == {}


def test_a_single_modality_that_is_no_worse_ships_alone(candidates: list[Candidate]) -> None:
    own, vision = candidates[0], candidates[2]
    choice, _ = choose([own, vision], {own.name: left_out(1, 1.0), vision.name: left_out(3, 1.5)})
    assert choice.alone == "vision"
    assert "fusing does not help" in choice.note
    assert as_chosen(own.recipe, choice).modalities == ("camera.front",)
    fused, _ = choose([own, vision], {own.name: left_out(1, 1.5), vision.name: left_out(3, 1.0)})
    assert fused.alone == ""


def test_no_fold_has_a_say_in_how_it_is_decided(candidates: list[Candidate]) -> None:
    own, other = candidates[:2]
    plan = msgspec.structs.replace(own.recipe.train, offsets=True)
    moved = Candidate(own.name, msgspec.structs.replace(own.recipe, train=plan), {})
    known = {own.name: left_out(1, 1.4, offset=-1.5), other.name: left_out(2, 1.5)}
    _, before = choose([moved, other], known)
    # Other truths in fold 2: its decisions stay, and those of other folds may change.
    changed = {}
    for name, one in known.items():
        logits, truth = one.outputs[""]
        wrong = torch.where(torch.from_numpy(one.folds == 2), (truth + 1) % 4, truth)
        changed[name] = LeftOut({"": (logits, wrong)}, one.groups, one.folds)
    _, after = choose([moved, other], changed)
    answers = [
        [(one.prediction.label, one.prediction.confidence) for one in made if one.fold == 2] for made in (before, after)
    ]
    assert answers[0] == answers[1]
    assert [one.prediction.confidence for one in before] != [one.prediction.confidence for one in after]


def test_what_is_fitted_is_fitted_to_all_that_was_left_out(candidates: list[Candidate]) -> None:
    own = candidates[0]
    plan = msgspec.structs.replace(own.recipe.train, offsets=True)
    moved = Candidate(own.name, msgspec.structs.replace(own.recipe, train=plan), {})
    choice, decided = choose([moved], {own.name: left_out(1, 1.4, offset=-1.5)})
    assert choice.fitted is not None and choice.fitted.offsets[0] == 0.0
    assert all(value < 0 for value in choice.fitted.offsets[1:])
    assert choice.fitted.policy["temperature"] > 0
    assert len(decided) == GROUPS * SIZE
    assert {one.prediction.group for one in decided if one.fold == 1} == {"g1", "g5"}


def test_a_choice_is_kept_whole(candidates: list[Candidate], tmp_path: Path) -> None:
    work = tmp_path
    assert chosen_recipe(candidates[0].recipe, work) == candidates[0].recipe
    assert read_choice(work).fitted is None and read_decided(work) == []
    choice, decided = choose(candidates[:1], {candidates[0].name: left_out(1, 1.0)})
    write_choice(work, choice, decided)
    assert read_choice(work) == choice
    assert read_decided(work) == decided
    write_choice(work, Choice("nothing"), ())
    assert read_decided(work) == []
    (work / CHOICE).write_text("{")
    with pytest.raises(UserError, match="--from choose"):
        read_choice(work)


def test_settings_are_keys_of_the_recipe(recipe: Recipe) -> None:
    found = with_settings(recipe, {"streams.camera.front.width": 24, "model.fusion.kind": "gated"})
    assert found.streams["camera.front"].width == 24  # type: ignore[union-attr]
    assert found.model.fusion.kind == "gated"
    for settings, said in (({"train.epochz": 3}, "epochz"), ({"trein.epochs": 3}, "trein"), ({"train.epochs": 0}, "1")):
        with pytest.raises(ConfigError, match=said) as caught:
            with_settings(recipe, settings)
        assert "\n" not in str(caught.value)
    assert alone(recipe, "text").model.encoders.keys() == {"text"}


def test_a_modality_alone_keeps_what_of_the_mirror_is_its_own() -> None:
    found, _ = load_recipe(Path(build_engines.__file__).parent / "recipes" / "driving_sim.toml")
    assert isinstance(found, Recipe)
    vision, sensors = (alone(found, encoder) for encoder in ("vision", "sensors"))
    mirrors = [one.train.augment.mirror for one in (found, vision, sensors)]
    whole, of_vision, of_sensors = mirrors
    assert whole and of_vision and of_sensors
    assert (of_vision.labels, of_vision.channels) == (whole.labels, ())
    assert (of_sensors.labels, of_sensors.channels) == ((("left", "right"),), whole.channels)
    assert all(check(one) is None for one in (vision, sensors))
    for one in (vision, sensors):
        assert set(one.quantise.stages) <= {*one.model.encoders, "fusion"}
