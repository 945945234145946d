"""The sensors' row: a part of a sample that cannot be used costs that part, and a stream's records say its channels."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from edge_runtime.admit import Refusal
from edge_runtime.kinds.kind import Partly
from edge_runtime.kinds.record import wall_time
from edge_runtime.kinds.sensors import Sensors
from edge_runtime.messages import Sample
from edge_runtime.streams import NS_PER_MS, Channel, SensorStream

SPEC = SensorStream(
    (Channel("a", "m", -9, 9), Channel("b", "s", 0, 5)), rate_hz=20, max_age_ms=200, window=4, step_ms=50, hop_ms=25
)
ROW = Sensors()


def test_what_is_left_of_a_sample_is_made_and_the_rest_is_told() -> None:
    whole = ROW.admission(SPEC)({"a": 1, "b": 2.0})
    assert not isinstance(whole, Partly | Refusal)
    assert whole("s", 3, 7, "x") == Sample("s", 3, 7, {"a": 1.0, "b": 2.0}, id="x")
    partly = ROW.admission(SPEC)({"a": 1.0, "b": 6.0, "c": 1.0})
    assert isinstance(partly, Partly)
    assert partly.make("s", 3, 7, None) == Sample("s", 3, 7, {"a": 1.0})
    assert {name: why.reason for name, why in partly.refused.items()} == {"b": "out_of_range", "c": "unknown_channel"}
    assert ROW.admission(SPEC)({"b": 6.0}) == Refusal("out_of_range", "b = 6.0 s, not in 0..5")
    again = ROW.admission(SPEC)(Sample("other", 0, 0, {"a": 2.0}))
    assert not isinstance(again, Partly | Refusal)
    assert again("s", 4, 8, None) == Sample("s", 4, 8, {"a": 2.0}), "as from a recording"


def test_a_later_window_reaches_as_far_as_its_steps_two_hops_and_the_maximum_age() -> None:
    assert ROW.reach_ns(SPEC) == (4 * 50 + 2 * 25 + 200) * NS_PER_MS
    assert (ROW.keep, ROW.each_answered, ROW.surplus) == (4096, False, "late")


def test_tensors_are_a_row_per_step_and_a_column_per_channel() -> None:
    fields = ROW.fields(SPEC)
    assert {name: (field.dtype, field.shape, field.likeness) for name, field in fields.items()} == {
        "window": ("float32", (1, 4, 2), "readings"),
        "mask": ("float32", (1, 4, 2), "exact"),
    }


def test_a_record_is_the_sample_and_its_schema_names_every_channel_with_its_unit() -> None:
    sample = Sample("s", 3, 7, {"a": 1.5}, id="x")
    record = ROW.to_record(sample, wall_time(9), None)
    assert (record.seq, record.captured_ns, record.values, record.id) == (3, 7, {"a": 1.5}, "x")
    assert ROW.to_message("s", record) == sample
    assert ROW.to_record(replace(sample, id=None), wall_time(9), None).id is UNSET
    title, schema = ROW.record_schema(SPEC, "cabin")
    assert title == "edge_runtime.SensorSample.cabin"
    assert schema["properties"]["values"] == {
        "type": "object",
        "properties": {"a": {"type": "number", "description": "m"}, "b": {"type": "number", "description": "s"}},
    }


def test_of_a_recorded_sample_a_stream_takes_the_channels_that_it_has() -> None:
    both = Sample("s", 3, 7, {"a": 1.0, "b": 2.0})
    assert ROW.fitted(SPEC, both) is both
    assert ROW.fitted(SPEC, Sample("s", 3, 7, {"a": 1.0, "z": 2.0})) == Sample("s", 3, 7, {"a": 1.0})
    assert ROW.fitted(SPEC, Sample("s", 3, 7, {"z": 2.0})) is None


def test_contradictions_are_named_each_once() -> None:
    assert list(ROW.problems(SPEC)) == []
    assert list(ROW.problems(replace(SPEC, channels=()))) == ["it has no channel"]
    twice = (Channel("a", "m", 0, 1), Channel("b", "m", 1, 1), Channel("a", "m", 2, 1))
    assert list(ROW.problems(replace(SPEC, channels=twice))) == [
        "there are two channels called 'a'",
        "b: minimum 1 is not below maximum 1",
        "a: minimum 2 is not below maximum 1",
    ]


def test_people_are_told_of_the_window_where_there_is_one() -> None:
    assert ROW.detail(SPEC) == "window 4 x 50 ms: a (m), b (s)"
    assert ROW.detail(replace(SPEC, window=1)) == "a (m), b (s)"
    assert ROW.detail(replace(SPEC, window=2)).startswith("window 2 x 50 ms: ")
