from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.capture.json_place import find, parse

VALUE = {"air": {"co2": 615, "list": [1, {"x": None}]}, "a b": True}


@pytest.mark.parametrize(
    ("place", "there"),
    [
        ("air.co2", 615),
        ("$.air.co2", 615),
        ("air.list[0]", 1),
        ("air.list[1].x", None),
        ("a b", True),
        ("$", VALUE),
    ],
)
def test_what_is_there(place: str, there: object) -> None:
    assert find(VALUE, parse(place)) == there


@pytest.mark.parametrize("place", ["x", "air.x", "air.list[2]", "air.co2.x", "air[0]", "air.list.x", "[0]"])
def test_where_nothing_is(place: str) -> None:
    with pytest.raises(LookupError):
        find(VALUE, parse(place))


@pytest.mark.parametrize("place", ["a..b", "a[", "a[x]", "a[-1]", "a]", ".", "$a", "a.", "a[0]b", "a[*]"])
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(ValueError, match="no place in JSON"):
        parse(place)


@given(st.text(max_size=20))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = parse(text)
    except ValueError:
        return
    with pytest.raises(LookupError):
        find(VALUE, ("nothing", *place))
