"""A tag per word: which row belongs to a word, what is counted, and which streams fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.heads.tagging import TaggingHead, best_path, iob2, tagged_stream
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


@given(st.integers(1, 4), st.lists(st.floats(-4, 4, width=32), min_size=20, max_size=20), st.booleans())
def test_the_tags_are_the_best_of_all_that_iob2_allows(words: int, values: list[float], second: bool) -> None:
    labels = ("O", "B-a", "I-a", "B-b", "I-b") if second else ("O", "B-a", "I-a", "I-x", "B-y")
    logits = np.array(values, np.float32)[: words * 5].reshape(words, 5)
    path = best_path(logits, labels)

    def allowed(tags: Sequence[str]) -> bool:
        before = ("", *tags)  # no B-x is known: I-x may stand anywhere
        return all(
            not tag.startswith("I-") or tag == "I-x" or before[place] in (f"B-{tag[2:]}", tag)
            for place, tag in enumerate(tags)
        )

    sums = {
        tried: sum(float(logits[place, number]) for place, number in enumerate(tried))
        for tried in itertools.product(range(5), repeat=words)
        if allowed([labels[number] for number in tried])
    }
    assert tuple(path) in sums
    assert sums[tuple(path)] == pytest.approx(max(sums.values()), abs=1e-5)


def test_an_inside_tag_alone_makes_the_word_before_it_a_beginning_where_that_is_more_probable() -> None:
    logits = np.array([[1.0, 0.9, 0, 0, 0], [0, 0, 3.0, 0, 0]], np.float32)
    verdict, _ = HEAD.decide(DecisionPolicy("O"), PolicyState(), logits, None)
    assert verdict.tags == ("B-room", "I-room")
    chosen = np.exp([0.9, 3.0]) / np.exp(logits).sum(1)
    assert verdict.confidence == pytest.approx(chosen.mean())
    assert best_path(np.zeros((0, 5), np.float32), LABELS).size == 0


def test_only_the_safe_label_and_the_temperature_are_a_tagging_head_s() -> None:
    assert list(HEAD.ignored(DecisionPolicy("O", temperature=2.0))) == []
    assert [text.partition(",")[0] for text in HEAD.ignored(DecisionPolicy("O", threshold=0.5))] == [
        "decision.threshold is set"
    ]
    assert (HEAD.kind, HEAD.summary) == ("tagging", "O, B-room, I-room, B-thing, I-thing")
