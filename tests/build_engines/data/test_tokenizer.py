"""The tokenizer of a bundle and the sampling of subwords for training."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from build_engines.data.tokenizer import SamplingEncoder, train_tokenizer
from build_engines.modalities.text.recipe import TokenizerRecipe
from edge_runtime.errors import UserError
from edge_runtime.preprocess import text_tensors
from edge_runtime.streams import TextStream
from edge_runtime.tokenizer import SentencePieceTokenizer

SENTENCES = [
    "turn on the kitchen light",
    "turn off the bedroom light",
    "打开客厅的灯",
    "关闭卧室的灯",
    "lock the door",
]
SPEC = TextStream(max_tokens=16, max_age_ms=1000.0)


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_tokenizer(TokenizerRecipe(vocabulary=330), SENTENCES)


def test_no_script_gives_unknown_pieces(model: bytes) -> None:
    tokenizer = SentencePieceTokenizer(model)
    for text in ("καλημέρα", "привет", "🚗 left", "打開"):
        ids = tokenizer.encode(text)
        assert ids
        assert 0 not in ids


def test_without_sampling_it_is_the_device_encoding(model: bytes) -> None:
    ids, mask = SamplingEncoder(model, SPEC, 0.0, 1).encode(SENTENCES)
    for row, text in enumerate(SENTENCES):
        device = text_tensors(SPEC, SentencePieceTokenizer(model), text)
        assert np.array_equal(ids[row], device["ids"][0])
        assert np.array_equal(mask[row], device["mask"][0])


def test_sampling_varies_but_repeats_in_any_process(model: bytes) -> None:
    encoder = SamplingEncoder(model, SPEC, 0.2, 1)
    drawn = [encoder.encode(SENTENCES)[0].tolist() for _ in range(3)]
    assert drawn[0] != drawn[1] or drawn[1] != drawn[2]
    script = (
        "import sys\n"
        "from build_engines.data.tokenizer import SamplingEncoder\n"
        "from edge_runtime.streams import TextStream\n"
        "encoder = SamplingEncoder(sys.stdin.buffer.read(), TextStream(max_tokens=16, max_age_ms=1000.0), 0.2, 1)\n"
        f"print([encoder.encode({SENTENCES!r})[0].tolist() for _ in range(3)])"
    )
    other = subprocess.run([sys.executable, "-c", script], input=model, capture_output=True, check=True)
    assert other.stdout.decode().strip() == str(drawn)


def test_an_impossible_vocabulary_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="vocabulary"):
        train_tokenizer(TokenizerRecipe(vocabulary=300), ["".join(map(chr, range(0x4E00, 0x4E00 + 400)))])


def test_marked_capitals_share_the_pieces_of_small_letters() -> None:
    words = ["london", "London", "LONDON", "light", "Light", "kitchen"] * 5
    model = train_tokenizer(TokenizerRecipe(vocabulary=320, mark_capitals=True), words)
    tokenizer = SentencePieceTokenizer(model)
    small, first, every, wide = tokenizer.encode_words(["london", "London", "LONDON", "\uff2condon"])
    (mark,) = {first[0]}
    assert first == [mark, *small]
    assert wide == first
    assert every.count(mark) == len("london")
    assert mark not in small
    for word in ("Ωmega", "Привет", "打開", "🚗", "ﬁne", "\u00b4"):
        assert 0 not in tokenizer.encode(word)
