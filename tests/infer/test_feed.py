"""Feeding a stage: which run, and what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.bundle import Stage, StageInput
from edge_runtime.infer.feed import feed, presence_tensor, stages_fed
from edge_runtime.messages import AlignedSet, Slice, Tensor
from edge_runtime.tensor_source import PRESENCE, TensorSource, stage_output, stream_tensor


def stage(name: str, *inputs: StageInput) -> Stage:
    return Stage(name, inputs, (), {})


def test_each_input_is_its_sources_stacked_and_zeros_where_one_is_absent() -> None:
    cameras = ("stream:left:image", "stream:right:image")
    both = StageInput("both", "uint8", (2, 4, 5, 3), cameras)
    one = stage("one", both, StageInput("features", "float32", (1, 6), "stage:text:features"))
    known: dict[TensorSource, Tensor] = {
        stream_tensor("right", "image"): np.full((1, 4, 5, 3), 7, np.uint8),
        stage_output("text", "features"): np.arange(6, dtype=np.float32)[None],
    }
    found = feed(one, known.get)
    assert set(found) == {"both", "features"}
    assert found["both"].dtype == np.uint8 and found["both"].shape == (2, 4, 5, 3)
    assert (found["both"][0] == 0).all() and (found["both"][1] == 7).all()
    assert found["features"] is known[stage_output("text", "features")]


def test_presence_is_one_for_what_is_there() -> None:
    aligned = AlignedSet(0, {"a": Slice("a", True), "b": Slice("b", False), "c": Slice("c", True)})
    found = presence_tensor(("c", "b"), aligned)
    assert found.dtype == np.float32 and found.tolist() == [[1.0, 0.0]]


STAGES = (
    stage("a", StageInput("x", "float32", (1, 1), "stream:one:x")),
    stage("b", StageInput("x", "float32", (2, 1), ("stream:two:x", "stream:three:x"))),
    stage(
        "mixed",
        StageInput("x", "float32", (1, 1), "stream:two:x"),
        StageInput("y", "float32", (1, 1), "stage:a:y"),
    ),
    stage("after", StageInput("x", "float32", (1, 1), "stage:mixed:y")),
    stage("whole", StageInput("x", "float32", (1, 1), "stage:b:y"), StageInput("p", "float32", (1, 1), str(PRESENCE))),
)


@pytest.mark.parametrize(
    ("present", "fed"),
    [
        ((), {"whole"}),
        (("one",), {"a", "mixed", "after", "whole"}),
        (("two",), {"b", "mixed", "after", "whole"}),
        (("three",), {"b", "whole"}),
        (("one", "two", "three"), {"a", "b", "mixed", "after", "whole"}),
    ],
)
def test_a_stage_runs_where_a_stream_or_a_stage_before_it_gives_something(
    present: tuple[str, ...], fed: set[str]
) -> None:
    assert stages_fed(STAGES, present) == fed
