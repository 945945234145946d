"""Made moments of a home's door: the rule, the sentences, and what the device's own code reads of what is detected."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from build_engines.data import porch
from build_engines.data.porch import CHANNELS, SAID, make, moment, rule, sentences
from build_engines.data.porch_scene import STEPS, Scene, Thing, detected, draw, seen
from build_engines.recipe import Recipe, load_recipe
from edge_runtime.streams import SensorStream, streams_of

RECIPE = Path(porch.__file__).parents[1] / "recipes" / "porch.toml"
KNOWN = (True, False, None)


def person(x: float | np.ndarray, y: float) -> Thing:
    return Thing("person", np.stack(np.broadcast_arrays(x, np.full(STEPS, y)), axis=1), 0.5, 0.36)


def test_a_door_is_opened_for_a_visitor_by_somebody_who_is_in_and_asks() -> None:
    said = ("", "other", *SAID)
    cases = product(dict.fromkeys(said), KNOWN, KNOWN, KNOWN, KNOWN)
    opened = {case for case in cases if rule(*case) == "unlock"}
    assert opened == {("open", True, walker, True, dark) for walker in KNOWN for dark in KNOWN}
    assert {rule("ask", visitor, True, True, True) for visitor in KNOWN} == {"say_somebody", "say_nobody", "hold"}
    assert rule("ask", None, True, True, True) == "hold", "nobody has looked"
    assert (rule("", True, None, True, None), rule("", True, None, None, None)) == ("announce", "notify")
    assert [rule("other", False, walker, True, True) for walker in KNOWN] == ["light_on", "nothing", "nothing"]


@pytest.mark.parametrize("said", SAID)
def test_no_sentence_is_in_both_splits_and_each_has_several_of_both_languages(said: str) -> None:
    train, val = sentences(said, "train"), sentences(said, "val")
    assert not set(train) & set(val) and len(train) > len(val) > 2
    for split in (train, val):
        assert {text.isascii() for text in split} == {True, False}
        assert all(text == " ".join(text.split()) for text in split), "no word is left out"


def test_who_stands_at_the_door_is_read_as_standing_and_who_walks_by_is_not() -> None:
    stays, passes = Scene((person(0.75, 0.8),)), Scene((person(np.linspace(0.0, 1.0, STEPS), 0.48),))
    assert stays.visitor and not stays.walker and passes.walker and not passes.visitor
    for scene, standing, moving in ((stays, 1.0, 0.0), (passes, 0.0, 1.0)):
        now = [seen(detected(scene, False, np.random.default_rng(seed)), CHANNELS)[-1] for seed in range(40)]
        assert np.median([step["person.door.standing"] for step in now]) == standing
        assert np.median([step["person.picture.moving"] for step in now]) == moving
        found = np.mean([step["person.picture.count"] >= 1 for step in now])
        assert 0.7 < found < 1.0, "a detector that never misses anybody teaches nothing"


def test_a_detector_is_less_sure_in_the_dark() -> None:
    day, night = (
        np.mean([
            step["person.door.score"]
            for seed in range(20)
            for step in seen(detected(Scene((person(0.75, 0.8),)), dark, np.random.default_rng(seed)), CHANNELS)
        ])
        for dark in (False, True)
    )  # fmt: skip
    assert night < day - 0.05


def test_the_recipe_reads_what_is_made(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)[0]
    assert isinstance(recipe, Recipe)
    sensors = streams_of(recipe.streams, SensorStream)
    assert tuple(channel.name for channel in sensors["objects"].channels) == CHANNELS
    assert sensors["objects"].window == porch.WINDOW
    make(tmp_path, "train", 300, 1)
    rows = [json.loads(line) for line in (tmp_path / "train/samples.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == set(recipe.labels)
    assert {*rows[0]["room"]} == {channel.name for channel in sensors["room"].channels}
    assert all(len(row["objects"]) == porch.WINDOW for row in rows if row["objects"])
    missing = {name: sum(row[name] is None for row in rows) for name in ("text", "room", "objects")}
    assert all(count > 5 for count in missing.values()), "absent streams are moments it has seen"


def test_the_same_seed_makes_the_same_moments_and_another_others() -> None:
    assert moment("train", 5, 3) == moment("train", 5, 3) != moment("train", 6, 3)
    shares = np.mean([draw(np.random.default_rng(seed)).visitor for seed in range(300)])
    assert 0.3 < shares < 0.5
