"""Where a stage's input comes from: the one reading of `stream:<stream>:<field>`, `stage:<stage>:<output>`, `presence`.

A manifest and a recipe write it as such a string; everything else asks the parsed `TensorSource`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_FORMS = "expected stream:<stream>:<field>, stage:<stage>:<output> or presence"


@dataclass(frozen=True, slots=True)
class TensorSource:
    """One tensor that a stage may read. `str` of it is the form that manifests hold."""

    kind: Literal["stream", "stage", "presence"]
    name: str = ""
    """Of the stream or the stage; empty for `presence`."""
    field: str = ""
    """The stream's field or the stage's output; empty for `presence`."""

    def __str__(self) -> str:
        return "presence" if self.kind == "presence" else f"{self.kind}:{self.name}:{self.field}"


PRESENCE = TensorSource("presence")
"""1.0 or 0.0 for each of the manifest's `presence` streams, float32 [1, n]."""


def stream_tensor(stream: str, field: str) -> TensorSource:
    """The tensor `field` of `stream`."""
    return TensorSource("stream", stream, field)


def stage_output(stage: str, output: str) -> TensorSource:
    """The `output` of `stage`."""
    return TensorSource("stage", stage, output)


@lru_cache(maxsize=1024)
def parse_source(text: str) -> TensorSource:
    """The source that `text` names. Raises ValueError saying what is expected."""
    if text == "presence":
        return PRESENCE
    # An ONNX output's name may hold a colon (TensorFlow's `logits:0`); a stream's or a stage's may not.
    kind, _, rest = text.partition(":")
    name, _, field = rest.partition(":")
    if kind not in ("stream", "stage") or not name or not field:
        raise ValueError(f"source {text!r} is none; {_FORMS}")
    return stream_tensor(name, field) if kind == "stream" else stage_output(name, field)
