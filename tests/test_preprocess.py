from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.messages import Sample, words_of
from edge_runtime.preprocess import (
    LATIN,
    LETTER_KINDS,
    LETTERS,
    image_tensor,
    letter,
    text_tensors,
    window_tensors,
    word_grid,
    word_row,
)
from edge_runtime.specs import CLIP_SIGMA
from edge_runtime.streams import NS_PER_MS, CameraStream, Channel, SensorStream, TextStream
from edge_runtime.tokenizer import Pieces, SentencePieceTokenizer
from tests import tiny
from tests.conftest import noise

SPEC = SensorStream((Channel("a", "m", -99, 99, 1.0, 2.0), Channel("b", "s", 0, 99)), 10, 150, window=3, step_ms=100)


def sample(at_ms: int, **values: float) -> Sample:
    return Sample("sensors", at_ms, at_ms * NS_PER_MS, values)


def test_a_picture_of_the_right_size_is_taken_as_it_is() -> None:
    image = noise(90, 1, (24, 32))
    assert (image_tensor(CameraStream(32, 24, 30, 100), image)[0] == image).all()


def test_a_larger_picture_is_averaged_down() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[::2, ::2] = 200
    tensor = image_tensor(CameraStream(32, 24, 30, 100), image)
    assert tensor.shape == (1, 24, 32, 3)
    assert (tensor == 50).all()


def test_the_window_holds_each_channel_s_last_value_step_by_step() -> None:
    tensors = window_tensors(SPEC, (sample(0, a=3.0, b=1.0), sample(100, a=5.0), sample(200, a=7.0)))
    assert tensors["window"].shape == (1, 3, 2)
    assert tensors["window"][0, :, 0] == pytest.approx([1.0, 2.0, 3.0])
    # b was measured once; 200 ms later that value is older than the stream's 150 ms.
    assert tensors["mask"][0, :, 1].tolist() == [1.0, 1.0, 0.0]
    assert tensors["window"][0, 2, 1] == 0.0


def test_what_lies_before_the_window_is_held_into_its_first_step() -> None:
    tensors = window_tensors(SPEC, (sample(-50, a=3.0), sample(200, b=1.0)))
    assert tensors["mask"][0, :, 0].tolist() == [1.0, 1.0, 0.0]


def test_extreme_values_are_clipped() -> None:
    tensors = window_tensors(SPEC, (sample(0, a=99.0),))
    assert tensors["window"][0, 2, 0] == CLIP_SIGMA


@given(
    st.lists(
        st.tuples(st.integers(0, 2000), st.booleans(), st.floats(-50, 50, allow_subnormal=False)),
        min_size=1,
        max_size=50,
    )
)
def test_a_window_is_finite_and_zero_where_masked(rows: list[tuple[int, bool, float]]) -> None:
    samples = tuple(sample(at, **{"a" if first else "b": abs(value)}) for at, first, value in sorted(rows))
    tensors = window_tensors(SPEC, samples)
    assert np.isfinite(tensors["window"]).all()
    assert (tensors["window"][tensors["mask"] == 0] == 0).all()
    # The newest sample is at the window's end.
    newest = next(iter(samples[-1].values))
    assert tensors["mask"][0, -1, ("a", "b").index(newest)] == 1


def test_text_becomes_padded_pieces_and_a_mask() -> None:
    tokenizer = SentencePieceTokenizer(tiny.tokenizer_model())
    tensors = text_tensors(TextStream(16, 1000), tokenizer, "please stop now")
    count = len(tokenizer.encode("please stop now"))
    assert 0 < count <= 16
    assert tensors["mask"][0].sum() == count
    assert (tensors["ids"][0, count:] == 0).all()
    assert tensors["ids"].dtype == np.int32


def test_text_beyond_the_model_s_length_is_cut() -> None:
    tensors = text_tensors(TextStream(4, 1000), SentencePieceTokenizer(tiny.tokenizer_model()), "stop " * 40)
    assert tensors["mask"][0].tolist() == [1.0] * 4


WORDS = SentencePieceTokenizer(tiny.tokenizer_model())
BY_WORD = TextStream(6, 1000, word_pieces=5)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_every_word_has_its_own_row_of_pieces(text: str) -> None:
    words = words_of(text)
    tensors = text_tensors(BY_WORD, WORDS, text)
    assert tensors["ids"].shape == tensors["mask"].shape == (1, 6, 5)
    there = tensors["mask"][0].max(axis=1)
    assert there.tolist() == [1.0] * min(len(words), 6) + [0.0] * max(0, 6 - len(words))
    for row, word in enumerate(words[:6]):
        alone = text_tensors(BY_WORD, WORDS, word)
        assert (alone["ids"][0, 0] == tensors["ids"][0, row]).all()
        assert (alone["mask"][0, 0] == tensors["mask"][0, row]).all()


def test_a_word_of_which_nothing_is_left_is_still_a_word() -> None:
    invisible = "\u200b"  # not white space, and dropped by the tokenizer
    assert WORDS.encode(invisible) == []
    tensors = text_tensors(BY_WORD, WORDS, f"stop {invisible} now")
    assert tensors["mask"][0].sum(axis=1).tolist()[1:2] == [1.0]
    assert tensors["mask"][0, 2].sum() > 0


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    with pytest.raises(BundleError, match="not a SentencePiece model"):
        SentencePieceTokenizer(b"not a model")


def test_values_are_standardised_by_the_channel_s_mean_and_deviation_and_clipped_either_way() -> None:
    spec = SensorStream((Channel("a", "m", -99, 99, 10.0, 4.0), Channel("b", "s", -99, 99)), 10, 100)
    tensors = window_tensors(spec, (sample(0, a=2.0, b=-99.0),))
    assert tensors["window"].dtype == tensors["mask"].dtype == np.float32
    assert tensors["window"].tolist() == [[[-2.0, -CLIP_SIGMA]]]
    assert CLIP_SIGMA == 5.0


def at_ns(captured_ns: int, **values: float) -> Sample:
    return Sample("sensors", 0, captured_ns, values)


def masks(*samples: Sample) -> list[list[float]]:
    """Of each step, which channels are measured."""
    found: list[list[float]] = window_tensors(SPEC, samples)["mask"][0].tolist()
    return found


def test_a_value_is_held_as_long_as_the_maximum_age_to_the_nanosecond() -> None:
    step, age = 100 * NS_PER_MS, 150 * NS_PER_MS
    newest = at_ns(10 * step, b=1.0)
    assert masks(at_ns(8 * step + step // 2, a=1.0), newest) == [[0, 0], [1, 0], [1, 1]], "150 ms before the last step"
    assert masks(at_ns(8 * step + step // 2 - 1, a=1.0), newest) == [[0, 0], [1, 0], [0, 1]]
    assert masks(at_ns(8 * step - age, a=1.0), newest) == [[1, 0], [0, 0], [0, 1]]
    assert masks(at_ns(8 * step - age - 1, a=1.0), newest) == [[0, 0], [0, 0], [0, 1]]


def test_a_sample_is_first_seen_by_the_step_at_or_after_it() -> None:
    step = 100 * NS_PER_MS
    newest = at_ns(10 * step, b=1.0)
    assert masks(at_ns(9 * step, a=1.0), newest) == [[0, 0], [1, 0], [1, 1]]
    assert masks(at_ns(9 * step + 1, a=1.0), newest) == [[0, 0], [0, 0], [1, 1]]
    assert masks(at_ns(8 * step, a=1.0), newest) == [[1, 0], [1, 0], [0, 1]]


def test_of_two_samples_in_one_step_the_later_counts() -> None:
    spec = SensorStream((Channel("a", "m", -99, 99),), 10, 150, window=2, step_ms=100)
    tensors = window_tensors(spec, (sample(10, a=1.0), sample(60, a=2.0), sample(100, a=3.0), sample(100, a=4.0)))
    assert tensors["window"][0, :, 0].tolist() == [0.0, 4.0], "nothing was measured at 0 ms or before"
    tensors = window_tensors(spec, (sample(-10, a=1.0), sample(-5, a=2.0), sample(100, a=3.0)))
    assert tensors["window"][0, :, 0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("shape", [(24, 64), (48, 32), (12, 64), (48, 16), (12, 16), (23, 31)])
def test_a_picture_of_another_size_is_scaled_whichever_side_differs(shape: tuple[int, int]) -> None:
    spec = CameraStream(32, 24, 30, 100)
    halves = np.zeros((*shape, 3), np.uint8)
    halves[:, shape[1] // 2 :] = (50, 100, 200)
    tensor = image_tensor(spec, halves)
    assert (tensor.shape, tensor.dtype) == ((1, 24, 32, 3), np.uint8)
    assert (tensor[0, :, :12] == 0).all() and (tensor[0, :, 20:] == (50, 100, 200)).all()


def test_what_is_enlarged_is_smooth_and_what_is_shrunk_is_averaged() -> None:
    spec = CameraStream(32, 24, 30, 100)
    small = np.zeros((12, 16, 3), np.uint8)
    small[:, 8:] = 200
    steps = set(np.unique(image_tensor(spec, small)).tolist())
    assert len(steps - {0, 200}) >= 1, "between dark and bright there is a middle"
    for shape in ((12, 64), (48, 16)):  # smaller one way is enlarged, whatever it is the other way
        picture = noise(90, 1, shape)
        enlarged = cv2.resize(picture, (32, 24), interpolation=cv2.INTER_LINEAR)
        assert (image_tensor(spec, picture)[0] == enlarged).all()


def test_a_sentence_s_pieces_come_in_order_from_the_first() -> None:
    pieces = WORDS.encode("please stop now")
    tensors = text_tensors(TextStream(16, 1000), WORDS, "please stop now")
    assert tensors["ids"][0, : len(pieces)].tolist() == pieces
    assert tensors["mask"].tolist() == [[1.0] * len(pieces) + [0.0] * (16 - len(pieces))]
    assert (tensors["mask"].dtype, tensors["ids"].shape) == (np.float32, (1, 16))
    cut = text_tensors(TextStream(2, 1000), WORDS, "please stop now")
    assert cut["ids"][0].tolist() == pieces[:2]
    assert 0 < max(pieces) < WORDS.size


def test_words_and_pieces_beyond_the_grid_are_cut_off() -> None:
    spec = TextStream(2, 1000, word_pieces=2)
    ids, mask = word_grid(spec, [[5, 6, 7], [8], [9]])
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [8, 0]], [[1, 1], [1, 0]])
    assert (ids.dtype, mask.dtype) == (np.int32, np.float32)
    ids, mask = word_grid(spec, [])
    assert not ids.any() and not mask.any()
    sentence = text_tensors(spec, WORDS, "stop now then")
    assert (
        sentence["ids"].shape == (1, 2, 2)
        and (sentence["ids"][0] == word_grid(spec, WORDS.encode_words(["stop", "now"]))[0]).all()
    )


class Cut:
    """A tokenizer of letters: a piece each, of the same number as in the alphabet, between the marks 90 and 91, 92."""

    size = 100
    marks = ([90], [91, 92])

    def encode(self, text: str) -> list[int]:
        return [ord(char) - ord("a") + 1 for char in text]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return [self.encode(word) for word in words]

    def lay_out(self, text: str, length: int) -> Pieces:
        raise NotImplementedError


def test_words_in_their_sentence_follow_each_other_between_the_marks() -> None:
    spec = TextStream(5, 1000, word_pieces=3, sentence_pieces=14)
    row = text_tensors(spec, Cut(), " abc  d efghi ")
    assert {name: tensor.dtype for name, tensor in row.items()} == dict.fromkeys(row, np.int32) | {"mask": np.float32}
    assert row["ids"].tolist() == [[90, 1, 2, 3, 4, 5, 6, 7, 91, 92, 0, 0, 0, 0]]
    assert row["words"].tolist() == [[0, 1, 1, 1, 2, 3, 3, 3, 0, 0, 0, 0, 0, 0]]
    assert row["mask"].tolist() == [[1.0] * 10 + [0.0] * 4] and not row["types"].any()
    assert row["starts"].tolist() == [[1, 4, 5, 0, 0]]
    assert row["letters"][0, :, :5].tolist() == [
        [97, 98, 99, 0, 0], [100, 0, 0, 0, 0], [*b"efghi"], [0] * 5, [0] * 5
    ]  # fmt: skip


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=9), max_size=9), st.integers(1, 6), st.integers(0, 14))
def test_every_word_that_is_read_keeps_its_first_piece_and_the_longest_lose_their_last(
    words: list[str], most: int, spare: int
) -> None:
    spec = TextStream(6, 1000, word_pieces=most, sentence_pieces=6 + 3 + spare)
    row = word_row(spec, Cut(), words)
    read = words[:6]
    assert np.count_nonzero(row["starts"]) == len(read)
    kept = [np.flatnonzero(row["words"] == index + 1) for index in range(len(read))]
    for word, places, start in zip(read, kept, row["starts"], strict=False):
        assert places[0] == start and row["ids"][places].tolist() == Cut().encode(word)[: len(places)]
    longest = max((len(places) for places in kept), default=0)
    assert longest <= most and all(len(places) in (longest, len(word)) for places, word in zip(kept, read, strict=True))
    # One piece more a word would not have fitted, or there was none.
    more = sum(min(len(word), longest + 1) for word in read)
    assert longest in (most, max(map(len, read), default=0)) or more > 6 + spare


def test_a_row_that_is_too_short_for_its_words_leaves_the_last_out() -> None:
    row = word_row(TextStream(4, 1000, word_pieces=2, sentence_pieces=5), Cut(), ["ab", "cd", "ef"])
    assert (row["ids"].tolist(), row["starts"].tolist()) == ([90, 1, 3, 91, 92], [1, 2, 0, 0])


def test_letters_are_told_apart_in_latin_and_by_kind_elsewhere_and_long_words_by_both_ends() -> None:
    assert [letter(char) for char in "aZé"] == [97, 90, 233]
    assert [letter(char) - LATIN for char in "ДдΩ४語、"] == [0, 1, 0, 2, 3, 4]
    assert letter("\U0010ffff") == LETTER_KINDS - 1
    spec = TextStream(1, 1000, word_pieces=1, sentence_pieces=4)
    (shown,) = word_row(spec, Cut(), ["abcdefgh" + "i" * 20 + "stuvwxyz"])["letters"]
    assert shown.tolist() == [*b"abcdefghstuvwxyz"] and len(shown) == LETTERS
