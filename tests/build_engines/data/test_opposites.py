"""Counterfactual sentences."""

from __future__ import annotations

import pytest

from build_engines.data.opposites import opposite_of
from build_engines.recipe import OppositeRecipe

RULES = (
    OppositeRecipe(("light_on", "light_off"), (("on", "off"), ("打开", "关闭"), ("开", "关")), keep=("玄关",)),
    OppositeRecipe(("unlock", "lock"), (("unlock", "lock"),)),
)


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("turn on the front light", "light_on", ("turn off the front light", "light_off")),
        ("Lights OFF on the porch", "light_off", ("Lights on on the porch", "light_on")),
        ("turn on the light on the porch", "light_on", ("turn off the light on the porch", "light_off")),
        ("打开客厅的灯", "light_on", ("关闭客厅的灯", "light_off")),
        ("玄关灯关", "light_off", ("玄关灯开", "light_on")),
        ("unlock the door", "unlock", ("lock the door", "lock")),
        ("the front light please", "light_on", None),
        ("玄关", "light_off", None),
        ("turn on the radio", "media", None),
    ],
)
def test_the_telling_word_is_swapped_and_nothing_else(text: str, label: str, expected: tuple[str, str] | None) -> None:
    assert opposite_of(text, label, RULES) == expected
