from __future__ import annotations

import json
from typing import Literal

import jsonschema
import msgspec
import pytest

from edge_runtime import schema
from edge_runtime.messages import Verdict
from edge_runtime.wire import DecisionMessage
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
    message = msgspec.structs.replace(plain, values={"power_w": 1.5}, heads={"state": beside})
    raw = msgspec.json.encode(message)
    old = msgspec.json.decode(raw, type=SchemaOne)
    assert (old.schema, old.label, old.source) == (1, plain.label, plain.source)
    assert msgspec.json.decode(raw, type=DecisionMessage) == message
    validator = jsonschema.Draft202012Validator(json.loads(schema.path("decision").read_text()))
    validator.validate(json.loads(raw))
    assert json.loads(raw)["heads"]["state"]["label"] == "cold"
    assert not {"values", "heads"} & set(json.loads(msgspec.json.encode(plain))), "and without them nothing is new"
