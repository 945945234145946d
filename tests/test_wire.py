from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from edge_runtime import schema
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
