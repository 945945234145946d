"""Every kind of stream has its row, and the row does what it declares."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import AudioChunk, AudioStream
from edge_runtime.kinds.record import wall_time
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.recording.records import encode
from edge_runtime.streams import KINDS, StreamSpec, kind_of, kind_of_message
from tests import tiny

SPECS: dict[str, StreamSpec] = {**tiny.STREAMS, "mic": AudioStream(rate_hz=10, max_age_ms=400, window=8, mels=16)}
AT_NS = 2_000_000_000
MESSAGES: dict[str, Message] = {
    "camera": Frame("camera", 7, AT_NS, np.full((tiny.HEIGHT, tiny.WIDTH, 3), 90, np.uint8), id="x"),
    "sensors": Sample("sensors", 7, AT_NS, {"a": 1.5}, id="x"),
    "text": Utterance("text", 7, AT_NS, "stop", "en", id="x"),
    "mic": AudioChunk("mic", 7, AT_NS, np.arange(2000, dtype=np.int16), id="x"),
}


def test_the_table_holds_every_spec_once() -> None:
    assert [row.spec for row in KINDS] == list(get_args(StreamSpec))
    for part in ("message", "record", "schema"):
        assert len({getattr(row, part) for row in KINDS}) == len(KINDS), part
    assert {type(spec) for spec in SPECS.values()} == {row.spec for row in KINDS}, "each kind is tried below"


@pytest.mark.parametrize("name", SPECS)
def test_a_message_is_admitted_recorded_aligned_and_becomes_the_tensors_it_declares(name: str) -> None:
    spec, message = SPECS[name], MESSAGES[name]
    row = kind_of(spec)
    assert row is kind_of_message(message) and isinstance(message, row.message)
    made = row.admission(spec)(message)
    assert not isinstance(made, Refusal)
    assert made(name, 8, AT_NS, None).seq == 8

    record = row.to_record(message, wall_time(AT_NS), None)
    back = row.to_message(name, msgspec.json.decode(encode(record), type=row.record))
    assert (back.stream, back.seq, back.captured_ns, back.id) == (name, 7, AT_NS, "x")
    title, schema = row.record_schema(spec, name)
    assert title.startswith(row.schema) and schema["type"] == "object"

    part = row.choose(name, spec, [back], AT_NS, AT_NS)
    assert part.present
    tensors = row.preprocessor(spec, lambda file: tiny.tokenizer_model())(part)
    declared = row.fields(spec)
    assert tensors.keys() == declared.keys()
    for field, tensor in tensors.items():
        assert (str(tensor.dtype), tensor.shape) == (declared[field].dtype, declared[field].shape), field
    late = row.choose(name, spec, [back], AT_NS + 10**10, AT_NS + 10**10)
    assert not late.present, "too old counts as absent"
    assert row.detail(spec)
