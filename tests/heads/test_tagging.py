"""A tag per word: which row belongs to a word, what is counted, and which streams fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.heads.tagging import TaggingHead, iob2, tagged_stream
from edge_runtime.messages import AlignedSet, Slice, Utterance, Verdict
from edge_runtime.streams import CameraStream, StreamSpec, TextStream

LABELS = ("O", "B-room", "I-room", "B-thing", "I-thing")
HEAD = TaggingHead(LABELS, "stage:text:tags")
STREAMS: dict[str, StreamSpec] = {
    "camera": CameraStream(8, 8, 30, 100),
    "note": TextStream(6, 1000),
    "command": TextStream(4, 1000, word_pieces=2),
}


def output(*best: int, weight: float = 5.0) -> np.ndarray:
    logits = np.zeros((len(best), len(LABELS)), np.float32)
    logits[np.arange(len(best)), best] = weight
    return logits


def said(sentence: str | None, *best: int, policy: DecisionPolicy | None = None) -> Verdict:
    part = Slice("command", False, reason="missing")
    if sentence is not None:
        part = Slice("command", True, (Utterance("command", 0, 0, sentence),))
    slices = {"camera": Slice("camera", True), "note": Slice("note", True), "command": part}
    inputs = Inputs(STREAMS, AlignedSet(0, slices))
    verdict, state = HEAD.decide(policy or DecisionPolicy("O"), PolicyState("x"), output(*best), inputs)
    assert state == PolicyState()
    return verdict


def test_the_label_is_the_most_frequent_tag_and_of_equals_the_first_by_name() -> None:
    assert said("a b c d", 3, 1, 3, 0).label == "B-thing"
    assert said("a b c d", 3, 1, 0, 0).label == "B-room"
    assert said("a b c d", 0, 0, 0, 0).label == "O"


def test_the_confidence_is_the_mean_over_the_words_that_were_read() -> None:
    def sure(temperature: float) -> float:
        return math.exp(5 / temperature) / (math.exp(5 / temperature) + 4)

    assert said("a b", 1, 2, 0, 0).confidence == pytest.approx(sure(1.0))
    assert said("a b", 1, 2, 0, 0, policy=DecisionPolicy("O", temperature=3.0)).confidence == pytest.approx(sure(3.0))
    unsure = np.concatenate([output(1), output(1, weight=0.0)])
    mean = HEAD.decide(DecisionPolicy("O"), PolicyState(), unsure, None)[0].confidence
    assert mean == pytest.approx((sure(1.0) + 0.2) / 2)


def test_without_a_sentence_there_is_no_word_and_without_inputs_every_row_is_one() -> None:
    nothing = said(None, 1, 1, 1, 1)
    assert (nothing.label, nothing.tags, nothing.confidence, nothing.reason) == ("O", (), 0.0, None)
    verdict, _ = HEAD.decide(DecisionPolicy("O"), PolicyState(), output(1, 2, 0), None)
    assert (verdict.tags, verdict.reason, verdict.source) == (("B-room", "I-room", "O"), None, "model")


def test_what_was_not_read_is_outside() -> None:
    verdict = said("a b c d e", 1, 2, 0, 3)
    assert verdict.tags == ("B-room", "I-room", "O", "B-thing", "O")
    assert verdict.reason == "only the first 4 of 5 words were read"
    assert said("a b c d", 1, 2, 0, 3).reason is None


def test_exactly_one_stream_is_read_word_by_word() -> None:
    assert tagged_stream(STREAMS) == ("command", STREAMS["command"])
    assert HEAD.shape(STREAMS) == (1, 4, 5)
    assert list(HEAD.problems(DecisionPolicy("O"), STREAMS)) == []
    for streams in ({}, {"note": STREAMS["note"]}, STREAMS | {"other": STREAMS["command"]}):
        assert tagged_stream(streams) is None
        assert HEAD.shape(streams) is None
        (problem,) = HEAD.problems(DecisionPolicy("O"), streams)
        assert "exactly one text stream with word_pieces" in problem
    assert "is none of O, B-room" in next(HEAD.problems(DecisionPolicy("X"), STREAMS))


def test_a_tag_that_goes_on_is_left_and_one_that_begins_is_marked() -> None:
    assert iob2(["B-a", "I-a", "I-a", "I-b"]) == ("B-a", "I-a", "I-a", "B-b")
    assert iob2(["-", "I-a"], outside="-") == ("-", "B-a")
    assert iob2(["I-a", "I-x"], labels=("B-a", "I-a", "I-x")) == ("B-a", "I-x"), "no B-x is known"


def test_only_the_safe_label_and_the_temperature_are_a_tagging_head_s() -> None:
    assert list(HEAD.ignored(DecisionPolicy("O", temperature=2.0))) == []
    assert [text.partition(",")[0] for text in HEAD.ignored(DecisionPolicy("O", threshold=0.5))] == [
        "decision.threshold is set"
    ]
    assert (HEAD.kind, HEAD.summary) == ("tagging", "O, B-room, I-room, B-thing, I-thing")
