"""Where a stage's input comes from: one form in manifests, read by one parser."""

from __future__ import annotations

import pytest

from edge_runtime.tensor_source import PRESENCE, TensorSource, parse_source, stage_output, stream_tensor


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("stream:camera.front:image", TensorSource("stream", "camera.front", "image")),
        ("stage:vision:features", TensorSource("stage", "vision", "features")),
        ("stage:net:logits:0", TensorSource("stage", "net", "logits:0")),
        ("presence", PRESENCE),
    ],
)
def test_a_source_is_read_and_written_in_the_same_words(text: str, source: TensorSource) -> None:
    assert parse_source(text) == source
    assert str(source) == text


def test_it_can_be_made_of_its_parts() -> None:
    assert str(stream_tensor("text", "ids")) == "stream:text:ids"
    assert str(stage_output("fusion", "logits")) == "stage:fusion:logits"


@pytest.mark.parametrize(
    "text", ["", "presence:", "camera", "stream:camera", "stream::image", "stream:camera:", "file:a:b", "stage:a:"]
)
def test_what_is_no_source_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected stream:<stream>:<field>, stage:<stage>:<output> or presence"):
        parse_source(text)
