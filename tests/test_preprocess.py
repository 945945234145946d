from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.messages import Sample, words_of
from edge_runtime.preprocess import CLIP_SIGMA, Tokenizer, image_tensor, text_tensors, window_tensors
from edge_runtime.streams import NS_PER_MS, CameraStream, Channel, SensorStream, TextStream
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
    tokenizer = Tokenizer(tiny.tokenizer_model())
    tensors = text_tensors(TextStream(16, 1000), tokenizer, "please stop now")
    count = len(tokenizer.encode("please stop now"))
    assert 0 < count <= 16
    assert tensors["mask"][0].sum() == count
    assert (tensors["ids"][0, count:] == 0).all()
    assert tensors["ids"].dtype == np.int32


def test_text_beyond_the_model_s_length_is_cut() -> None:
    tensors = text_tensors(TextStream(4, 1000), Tokenizer(tiny.tokenizer_model()), "stop " * 40)
    assert tensors["mask"][0].tolist() == [1.0] * 4


WORDS = Tokenizer(tiny.tokenizer_model())
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
        Tokenizer(b"not a model")
