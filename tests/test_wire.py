from __future__ import annotations

import json
import math
from typing import Literal

import jsonschema
import msgspec
import pytest

from edge_runtime import schema
from edge_runtime.messages import Detection, Verdict
from edge_runtime.wire import (
    MAX_INPUT_BYTES,
    MAX_NAME,
    SCHEMA,
    DecisionMessage,
    InputMessage,
    InputState,
    StreamHealth,
    decode_input,
)
from tests.publish.test_sinks import decision, status


@pytest.mark.parametrize("kind", schema.KINDS)
def test_the_shipped_schema_is_the_one_of_the_types(kind: str) -> None:
    shipped = json.loads(schema.path(kind).read_text())
    assert shipped == schema.generate(kind), "run: python -m edge_runtime.schema"
    jsonschema.Draft202012Validator.check_schema(shipped)


def test_messages_meet_their_schema_and_others_do_not() -> None:
    for kind, message in (("decision", decision(1)), ("status", status(1))):
        validator = jsonschema.Draft202012Validator(json.loads(schema.path(kind).read_text()))
        data = json.loads(msgspec.json.encode(message))
        validator.validate(data)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(data | {"seq": "one"})
        del data["name"]
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(data)


class SchemaOne(msgspec.Struct, frozen=True):
    """What a reader that was written for schema 1 decodes."""

    schema: Literal[1]
    label: str
    confidence: float
    probabilities: dict[str, float]
    tags: list[str]
    source: Literal["model", "safe"]
    reason: str | None


def test_readers_of_schema_1_go_on_where_there_are_values_and_side_heads() -> None:
    beside = Verdict("cold", 0.9, {"cold": 0.9, "warm": 0.1}, "model")
    plain = decision(1)
    seen = Detection("person", 0.9, (0.1, 0.2, 0.3, 0.4), 7, True, ("door",))
    message = msgspec.structs.replace(plain, values={"power_w": 1.5}, heads={"state": beside}, detections=(seen,))
    raw = msgspec.json.encode(message)
    old = msgspec.json.decode(raw, type=SchemaOne)
    assert (old.schema, old.label, old.source) == (1, plain.label, plain.source)
    assert msgspec.json.decode(raw, type=DecisionMessage) == message
    validator = jsonschema.Draft202012Validator(json.loads(schema.path("decision").read_text()))
    validator.validate(json.loads(raw))
    assert json.loads(raw)["heads"]["state"]["label"] == "cold"
    assert not {"values", "heads", "detections"} & set(json.loads(msgspec.json.encode(plain))), (
        "and without them nothing is new"
    )


def given(text: str) -> InputMessage:
    return decode_input(text.encode())


def test_numbers_that_are_none_are_read_as_what_they_are() -> None:
    values = given(
        '{"schema":1,"stream":"s","values":{"a":NaN,"b":-Infinity,"c":1e999,"d":2,"e":true,"f":"off"}}'
    ).values
    assert values is not None and math.isnan(float(values["a"] or 0))
    assert {name: values[name] for name in "bcdef"} == {"b": -math.inf, "c": math.inf, "d": 2.0, "e": True, "f": "off"}
    plain = given('{"schema":1,"stream":"s","values":{"a":1,"b":null}}')
    assert (plain.values, plain.text, plain.lang, plain.captured_ns, plain.id) == (
        {"a": 1.0, "b": None},
        None,
        None,
        None,
        None,
    )


def test_a_stamp_beside_a_number_that_is_none_stays_exact() -> None:
    largest = (1 << 63) - 1
    assert given(f'{{"schema":1,"stream":"s","values":{{"a":NaN}},"captured_ns":{largest}}}').captured_ns == largest
    huge = given(f'{{"schema":1,"stream":"s","values":{{"a":{"9" * 400},"b":{"9" * 20}}}}}').values
    assert huge == {"a": math.inf, "b": 1e20}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "NaN",
        '{"schema":2,"stream":"s"}',
        '{"schema":1}',
        '{"schema":1,"stream":"s","values":{"a":NaN},"more":1}',
        '{"schema":1,"stream":"s","surprise":1}',
        '{"schema":1,"stream":"s","captured_ns":-1}',
        '{"schema":1,"stream":"s","captured_ns":9223372036854775808}',
        '{"schema":1,"stream":"s","values":{"a":NaN},"captured_ns":9223372036854775808}',
        '{"schema":1,"stream":"s","values":{"a":NaN}',
        '{"schema":1,"stream":"s","values":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
        '{"schema":1,"stream":"s","values":{"a":NaN,"b":' + "[" * 100_000 + "]" * 100_000 + "}}",
        f'{{"schema":1,"stream":"{"s" * (MAX_NAME + 1)}"}}',
        f'{{"schema":1,"stream":"s","id":"{"s" * (MAX_NAME + 1)}"}}',
        f'{{"schema":1,"stream":"s","lang":"{"s" * (MAX_NAME + 1)}"}}',
        f'{{"schema":1,"stream":"s","values":{{"{"s" * (MAX_NAME + 1)}":1}}}}',
    ],
)
def test_whatever_is_no_input_is_one_sort_of_error(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        given(text)
    with pytest.raises(msgspec.DecodeError):
        decode_input(text.encode() + b"\xff\xfe")


def test_names_may_have_their_greatest_length() -> None:
    name = "s" * 128
    message = given(f'{{"schema":1,"stream":"{name}","id":"{name}","lang":"{name}","text":"a"}}')
    assert (message.stream, message.id, message.lang, message.text) == (name, name, name, "a")
    assert (MAX_NAME, MAX_INPUT_BYTES, SCHEMA) == (128, 64 * 1024, 1)


def test_a_stream_s_account_balances_only_if_every_message_is_in_it() -> None:
    health = StreamHealth(10, 4, {"late": 2, "stale": 1}, 3, 0.0, 0.0, True)
    assert health.balanced
    for change in ({"captured": 11}, {"decided": 3}, {"dropped": {}}, {"in_flight": 2}):
        assert not msgspec.structs.replace(health, **change).balanced


def test_one_number_that_is_none_is_enough() -> None:
    for word, value in (("Infinity", math.inf), ("-Infinity", -math.inf), ("1e999", math.inf)):
        assert given(f'{{"schema":1,"stream":"s","values":{{"a":{word}}}}}').values == {"a": value}


def test_what_a_decision_was_made_of_is_told_even_where_it_is_as_usual() -> None:
    state = InputState(True, 3.0, 7)
    assert json.loads(msgspec.json.encode(state)) == {
        "present": True,
        "age_ms": 3.0,
        "seq": 7,
        "id": None,
        "reason": None,
    }
