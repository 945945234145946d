"""What every kind's records share: their time, and JSON Schemas in the part of the language that Foxglove reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

NS_PER_S = 1_000_000_000


class Time(Struct, frozen=True):
    """Wall time since the Unix epoch."""

    sec: Annotated[int, Meta(ge=0)]
    nsec: Annotated[int, Meta(ge=0, lt=NS_PER_S)]


def wall_time(wall_ns: int) -> Time:
    """`wall_ns` since the epoch, in seconds and nanoseconds."""
    return Time(*divmod(max(0, wall_ns), NS_PER_S))


def unset(value: str | None) -> str | UnsetType:
    """`value` for a field that is left out where there is none."""
    return UNSET if value is None else value


def none(value: str | UnsetType) -> str | None:
    """The value of such a field, or None."""
    return None if value is UNSET else value


def schema_of(kind: type, title: str) -> dict[str, Any]:
    """JSON Schema of `kind` in the part of the language that Foxglove reads: nothing referred to, every property of
    one simple type, objects with `properties`. Properties that may be null have no such type and are not described.
    """
    schema = msgspec.json.schema(kind)
    simple = _simple(schema, schema.get("$defs", {}))
    assert simple is not None
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **simple, "title": title}


def _simple(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any] | None:
    if "$ref" in schema:
        return _simple(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema and "type" not in schema:
        return {"type": "integer" if isinstance(schema["enum"][0], int) else "string", **schema}
    if "type" not in schema:
        return None
    simple = {key: value for key, value in schema.items() if key not in ("items", "prefixItems", "default", "$defs")}
    if schema["type"] == "array":
        items = _simple(schema["items"], definitions) if isinstance(schema.get("items"), dict) else None
        return None if items is None else {**simple, "items": items}
    if schema["type"] == "object":
        described_parts = {name: _simple(part, definitions) for name, part in schema.get("properties", {}).items()}
        properties = {name: part for name, part in described_parts.items() if part is not None}
        simple["properties"] = properties
        simple["required"] = [name for name in schema.get("required", ()) if name in properties]
        extra = simple.pop("additionalProperties", None)
        if isinstance(extra, dict) and (described := _simple(extra, definitions)) is not None:
            simple["additionalProperties"] = described
    return simple
