"""The table's own machinery: a model of its own, live, and that an answer of another model is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_runtime.wire import DecisionMessage
from tests.public_models.__main__ import differs, in_words, markdown, tried
from tests.public_models.expected import Said
from tests.public_models.table import CASES

PAIR = next(case for case in CASES if case.name == "two pictures through one network")


def test_a_model_is_served_live_and_a_wrong_answer_is_told(tmp_path: Path) -> None:
    outcome = tried(PAIR, tmp_path)
    assert not outcome.wrong and outcome.words.split()[0] in PAIR.labels
    off = tried(replace(PAIR, expected=lambda session, given, shelf: Said((0.5, 0.25))), tmp_path)
    assert "a probability is" in off.wrong
    assert "| two pictures through one network | exported here | served |" in markdown([outcome])


def test_a_refusal_must_be_the_one_that_was_expected(tmp_path: Path) -> None:
    recipe = PAIR.recipe_file
    assert recipe is not None
    wrong = replace(PAIR, recipe_file=lambda model, shelf: recipe(model, shelf).replace("net:same", "net:different"))
    assert "has no output 'different'" in tried(replace(wrong, refused="has no output"), tmp_path).words
    assert not tried(replace(wrong, refused="has no output"), tmp_path).wrong
    assert tried(replace(wrong, refused="crashes"), tmp_path).wrong == "should be refused otherwise"
    assert tried(wrong, tmp_path).wrong == "should be served"


def test_a_thing_that_the_file_does_not_see_is_noticed() -> None:
    class Seen:
        source, detections = "model", ()

    seen: DecisionMessage = Seen()  # type: ignore[assignment]
    assert in_words(seen) == "nothing" and differs(seen, Said(boxes=()), 1e-3) == ""
    assert differs(seen, Said(boxes=(("cat", 0.9, (0, 0, 1, 1)),)), 1e-3) == "0 things, by the file 1"
