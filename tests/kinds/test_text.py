"""The text's row: what is kept of a sentence, and what its tensors are."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from edge_runtime.admit import Refusal
from edge_runtime.kinds.kind import Partly
from edge_runtime.kinds.record import wall_time
from edge_runtime.kinds.text import Sentence, Text
from edge_runtime.messages import Slice, Speech, Utterance, Words
from edge_runtime.streams import TextStream
from tests import tiny

SPEC = TextStream(8, max_age_ms=1000, max_chars=10, languages=("en", "zh"))
ROW = Text()


def test_a_sentence_is_stripped_cut_and_marked() -> None:
    make = ROW.admission(SPEC)(Words("  twelve chars", "en"))
    assert not isinstance(make, Refusal)
    assert make("text", 3, 7, "x") == Utterance("text", 3, 7, "twelve cha", "en", truncated=True, id="x")
    assert ROW.admission(SPEC)(Words("ten chars."))("t", 0, 0, None) == Utterance("t", 0, 0, "ten chars.")
    assert ROW.admission(SPEC)(Words("\x00")) == Refusal("control_character", "U+0000")


def test_every_sentence_is_answered_and_some_may_wait() -> None:
    assert (ROW.keep, ROW.each_answered, ROW.surplus, ROW.files(SPEC)) == (16, True, "superseded", ("tokenizer.model",))
    assert ROW.reach_ns(SPEC) is None


def test_a_record_is_the_sentence() -> None:
    said = Utterance("text", 3, 7, "stop", "en", truncated=True, id="x")
    record = ROW.to_record(said, wall_time(9), None)
    assert ROW.to_message("text", record) == said
    plain = ROW.to_record(Utterance("text", 3, 7, "stop"), wall_time(9), None)
    assert (plain.lang, plain.id, plain.truncated) == (UNSET, UNSET, False)
    assert ROW.to_message("text", plain) == Utterance("text", 3, 7, "stop")
    assert ROW.record_schema(SPEC, "text")[0] == "edge_runtime.Sentence"


def test_a_spoken_sentence_keeps_how_it_was_heard() -> None:
    heard = Speech(900.0, 350.0, 0.25, 7.0)
    make = ROW.admission(SPEC)(Words("stop", "en", heard))
    assert not isinstance(make, Refusal) and not isinstance(make, Partly)
    said = make("text", 3, 7, "x")
    assert isinstance(said, Utterance) and said.speech == heard
    record = ROW.to_record(said, wall_time(9), None)
    again = msgspec.json.decode(msgspec.json.encode(record), type=Sentence)
    assert ROW.to_message("text", again) == said
    short = Utterance("text", 3, 7, "stop", speech=Speech(900.0, 350.0))
    assert ROW.to_message("text", ROW.to_record(short, wall_time(9), None)) == short
    described = ROW.record_schema(SPEC, "text")[1]["properties"]["speech"]
    assert set(described["properties"]) == {"duration_ms", "delay_ms", "score", "margin"}


def test_tensors_are_a_row_of_pieces_or_a_grid_of_words() -> None:
    def shapes(spec: TextStream) -> dict[str, tuple[str, tuple[int, ...], str]]:
        return {name: (field.dtype, field.shape, field.likeness) for name, field in ROW.fields(spec).items()}

    assert shapes(SPEC) == {
        "ids": ("int32", (1, 8), "exact"),
        "mask": ("float32", (1, 8), "exact"),
        "types": ("int32", (1, 8), "exact"),
    }
    words = replace(SPEC, word_pieces=3)
    assert {name: shape for name, (_, shape, _) in shapes(words).items()} == dict.fromkeys(
        ("ids", "mask", "types"), (1, 8, 3)
    )
    in_sentence = replace(words, sentence_pieces=12)
    assert {name: (dtype, shape) for name, (dtype, shape, _) in shapes(in_sentence).items()} == {
        "ids": ("int32", (1, 12)),
        "mask": ("float32", (1, 12)),
        "types": ("int32", (1, 12)),
        "words": ("int32", (1, 12)),
        "starts": ("int32", (1, 8)),
        "letters": ("int32", (1, 8, 16)),
    }


def test_every_word_must_have_room_for_a_piece() -> None:
    assert not list(ROW.problems(replace(SPEC, word_pieces=3, sentence_pieces=10)))
    assert list(ROW.problems(replace(SPEC, sentence_pieces=10))) == [
        "sentence_pieces needs word_pieces: at most how many each word may have"
    ]
    (small,) = ROW.problems(replace(SPEC, word_pieces=3, sentence_pieces=9))
    assert small == "sentence_pieces is 9; 8 words (max_tokens) and 2 marks need at least 10"


def test_the_newest_sentence_is_what_is_read() -> None:
    asked: list[str] = []

    def read(name: str) -> bytes:
        asked.append(name)
        return tiny.tokenizer_model()

    preprocess = ROW.preprocessor(SPEC, read)
    old, new = Utterance("text", 0, 0, "go on then"), Utterance("text", 1, 1, "stop")
    both = preprocess(Slice("text", True, (old, new)))
    alone = preprocess(Slice("text", True, (new,)))
    assert asked == ["tokenizer.model"]
    assert np.array_equal(both["ids"], alone["ids"]) and both["ids"].any()


def test_people_are_told_of_the_languages() -> None:
    assert ROW.detail(SPEC) == "8 tokens, en, zh"
