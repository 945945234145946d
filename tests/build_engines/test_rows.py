from __future__ import annotations

import math
from pathlib import Path

import pytest

from build_engines.rows import Row, read_json_lines
from edge_runtime.errors import UserError


def row(**fields: object) -> Row:
    return Row(Path("samples.jsonl"), 7, dict(fields))


def test_a_field_is_found_in_other_capitals_and_its_own_come_first() -> None:
    one = row(ID="a", Label="b", label="c")
    assert (one["id"], one.get("id"), one["label"], one.get("none", 3)) == ("a", "a", "c", 3)


def test_a_field_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"data samples.jsonl: line 7 \(x\): it has no field 'label'; it has id, Lable"):
        row(id="x", Lable=1)["label"]


@pytest.mark.parametrize("nothing", [None, math.nan, "", "  "])
def test_no_text_is_empty(nothing: object) -> None:
    assert row(text=nothing).text("text") == row().text("text") == ""


@pytest.mark.parametrize("word", ["null", "none", "-", "NaN", " hi "])
def test_words_are_words(word: str) -> None:
    assert row(text=word).text("text") == word


@pytest.mark.parametrize("nothing", [None, math.nan, "", "NA", "null", "-"])
def test_no_file(nothing: object) -> None:
    assert row(image=nothing).file("image") is None


@pytest.mark.parametrize(("value", "expected"), [(1, 1.0), ("2.5", 2.5), (" -3e2 ", -300.0), ("inf", math.inf)])
def test_numbers(value: object, expected: float) -> None:
    assert row().number("a", value) == expected


@pytest.mark.parametrize("value", [True, "high", [1], {}, "1,5"])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(UserError, match="line 7: sensors.a is .*; it must be a number or null"):
        row().number("sensors.a", value)


@pytest.mark.parametrize(
    ("field", "value", "ask"),
    [("text", ["a"], "text"), ("image", 3, "file"), ("image", {"a": 1}, "file"), ("sensors", [1, 2], "readings")],
)
def test_another_kind_of_value_is_one_line(field: str, value: object, ask: str) -> None:
    one = row(**{field: value})
    with pytest.raises(UserError, match=f"line 7: {field} "):
        getattr(one, ask)(field)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": 1}\n{"id": \n', "line 2: no JSON .* each line holds one object"),
        (b'{\n  "id": 1\n}\n', "line 1: no JSON"),
        (b'"id"\n', "line 1: no JSON object but 'id'; each line"),
        (b'{"id": 1}\n{"id": "caf\xe9"}\n', "line 2 is not UTF-8; save the file as UTF-8"),
        (b"\n# nothing\n", "holds no row"),
        (b"", "holds no row"),
    ],
)
def test_what_is_no_row_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        list(read_json_lines(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n\r\n// later\r\n{"id": "b", "x": NaN}\r\n\r\n')
    rows = list(read_json_lines(path))
    assert [(one.line, one["id"]) for one in rows] == [(1, "a"), (4, "b")]
