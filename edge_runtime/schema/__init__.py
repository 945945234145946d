"""JSON Schemas of everything that crosses the process border, for subscribers in other languages.

The `.json` files beside this module are what ships; `python -m edge_runtime.schema` writes them anew from `wire`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.wire import DecisionMessage, InputMessage, StatusMessage

KINDS = {"decision": DecisionMessage, "status": StatusMessage, "input": InputMessage}


def path(kind: str) -> Path:
    """The shipped schema file of `decision`, `status` or `input` messages."""
    return Path(__file__).parent / f"{kind}.json"


def generate(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of that kind, made from the types in `wire`."""
    schema = json.loads(msgspec.json.encode(msgspec.json.schema(KINDS[kind])))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind, **schema}


def write_all() -> None:
    """Write every schema file."""
    for kind in KINDS:
        path(kind).write_text(json.dumps(generate(kind), indent=2) + "\n", encoding="utf-8")
