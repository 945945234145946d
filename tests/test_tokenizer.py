"""Text to pieces: `tokenizer.json` against the published algorithm, written out here; SentencePiece too."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
import wordfreq
from tokenizers import BertWordPieceTokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edge_runtime.errors import BundleError
from edge_runtime.preprocess import text_tensors
from edge_runtime.specs import TextStream
from edge_runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, load_tokenizer
from tests.tiny import SENTENCES, tokenizer_model

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def words() -> list[str]:
    return [*wordfreq.top_n_list("en", 4000), *wordfreq.top_n_list("zh", 4000, wordlist="small")]


@pytest.fixture(scope="module")
def wordpiece(words: list[str]) -> bytes:
    """BERT's WordPiece, trained on words of both languages."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(words, vocab_size=4000, min_frequency=1, show_progress=False, special_tokens=MARKS)
    text: str = BertWordPieceTokenizer(tokenizer.get_vocab(), lowercase=True).to_str()  # with its marks
    return text.encode()


def _sentences(words: Sequence[str], count: int) -> list[str]:
    """Words of one language or both, with capitals, accents, digits, marks, emoji, odd spaces and unknown letters."""
    rng = np.random.default_rng(0)
    odd = [
        "ÀÉÎõü",
        "Straße",
        "12.5%",
        "e-mail@x.org",
        "—",
        "…",
        "🙂",
        "\u200b",
        "a\u00adb",
        "ﬁne",
        "Ω",
        "한국",
        "  ",
        "\t",
        "don't",
    ]
    made = []
    for _ in range(count):
        parts = [words[index] for index in rng.integers(0, len(words), rng.integers(1, 14))]
        if rng.random() < 0.4:
            parts.insert(int(rng.integers(0, len(parts) + 1)), odd[int(rng.integers(0, len(odd)))])
        text = ("" if rng.random() < 0.3 else " ").join(parts)
        made.append(text.upper() if rng.random() < 0.1 else text.capitalize() if rng.random() < 0.3 else text)
    return made


def _reference(vocabulary: dict[str, int], text: str, length: int) -> tuple[list[int], list[int]]:
    """ids and mask as BERT's own `tokenization.py` makes them (Devlin et al. 2019; google-research/bert): clean, part
    Chinese characters, lower, strip accents, part punctuation, then the longest piece first.
    """
    cleaned = "".join(
        " " if char in " \t\n\r" or unicodedata.category(char) == "Zs" else char
        for char in text
        if char in "\t\n\r" or (ord(char) not in (0, 0xFFFD) and unicodedata.category(char)[0] != "C")
    )
    parted = "".join(f" {char} " if _is_chinese(ord(char)) else char for char in cleaned)
    ids = []
    for word in parted.split():
        plain = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        for part in "".join(f" {char} " if _is_punctuation(char) else char for char in plain).split():
            ids += _pieces(vocabulary, part)
    ids = [vocabulary["[CLS]"], *ids[: length - 2], vocabulary["[SEP]"]]
    rest = length - len(ids)
    return ids + [vocabulary["[PAD]"]] * rest, [1] * len(ids) + [0] * rest


def _pieces(vocabulary: dict[str, int], word: str) -> list[int]:
    if len(word) > 100:
        return [vocabulary["[UNK]"]]
    ids, start = [], 0
    while start < len(word):
        end = len(word)
        while end > start and (piece := ("##" if start else "") + word[start:end]) not in vocabulary:
            end -= 1
        if end == start:
            return [vocabulary["[UNK]"]]
        ids.append(vocabulary[piece])
        start = end
    return ids


def _is_chinese(code: int) -> bool:
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip # noqa: E501
    return any(low <= code <= high for low, high in ranges)


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char).startswith("P")


def test_wordpiece_is_the_published_algorithm_on_10000_sentences_of_both_languages(
    words: list[str], wordpiece: bytes
) -> None:
    vocabulary = json.loads(wordpiece)["model"]["vocab"]
    tokenizer, spec = HuggingFaceTokenizer(wordpiece), TextStream(24, max_age_ms=1000, tokenizer="huggingface")
    differing = []
    for sentence in _sentences(words, 10_000):
        tensors = text_tensors(spec, tokenizer, sentence)
        ids, mask = _reference(vocabulary, sentence, 24)
        if tensors["ids"].tolist() != [ids] or tensors["mask"].tolist() != [mask]:
            differing.append(sentence)
    assert not differing


def _byte_level(side: str) -> Tokenizer:
    """As GPT-like decoders have it: bytes, no marks but at the end, padded and cut in front."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES * 5, trainer)
    tokenizer.enable_truncation(6, direction=side)
    tokenizer.enable_padding(direction=side, pad_id=tokenizer.token_to_id("<pad>"), pad_token="<pad>", pad_type_id=3)
    return tokenizer


def _unigram() -> Tokenizer:
    """As ALBERT and XLNet have it: Unigram, marks behind, types of their own."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "<cls>", "<sep>", "<pad>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 5, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<sep>", "<cls>")]
    tokenizer.post_processor = processors.TemplateProcessing("$A:0 <sep>:0 <cls>:2", None, marks)
    return tokenizer


@pytest.mark.parametrize(
    "made", [_byte_level("left"), _byte_level("right"), _unigram()], ids=["left", "right", "types"]
)
@pytest.mark.parametrize("length", [4, 8, 32])
def test_sides_marks_and_types_are_the_files(made: Tokenizer, length: int) -> None:
    ours = load_tokenizer("huggingface", made.to_str().encode())
    assert ours.size == made.get_vocab_size()
    longest = min(length, made.truncation["max_length"]) if made.truncation else length
    side = made.padding["direction"] if made.padding else "right"
    pad = made.padding["pad_id"] if made.padding else made.token_to_id("<pad>")
    for sentence in [*SENTENCES, "x", "Ω 🙂"]:
        pieces = ours.lay_out(sentence, length)
        assert (len(pieces.ids), len(pieces.mask), len(pieces.types)) == (length, length, length)
        real = sum(pieces.mask)
        rows = range(length - real, length) if side == "left" else range(real)
        assert [pieces.mask[row] for row in rows] == [1] * real
        assert all(pieces.ids[row] == pad for row in range(length) if row not in rows)
        kept = made.from_str(made.to_str())
        kept.no_padding()
        kept.enable_truncation(longest, direction=made.truncation["direction"] if made.truncation else "right")
        expected = kept.encode(sentence)
        assert [pieces.ids[row] for row in rows] == expected.ids
        assert [pieces.types[row] for row in rows] == expected.type_ids


def test_a_file_is_parsed_once(monkeypatch: pytest.MonkeyPatch, wordpiece: bytes) -> None:
    parsed: list[int] = []

    class Counting:
        @staticmethod
        def from_str(text: str) -> Tokenizer:
            parsed.append(len(text))
            return Tokenizer.from_str(text)

    monkeypatch.setattr("tokenizers.Tokenizer", Counting)
    tokenizer = HuggingFaceTokenizer(wordpiece)
    cut, whole = (list(tokenizer.lay_out("the light is on", length).ids) for length in (4, 24))
    assert tokenizer.encode("the light is on") == [piece for piece in whole[1:] if piece][:-1]
    assert cut[:3] == whole[:3] and len(cut) == 4
    assert list(tokenizer.lay_out("the light is on", 24).ids) == whole, "what was cut before changes nothing"
    assert len(parsed) == 1


def test_words_are_encoded_one_by_one_and_without_marks(wordpiece: bytes) -> None:
    tokenizer = HuggingFaceTokenizer(wordpiece)
    vocabulary = json.loads(wordpiece)["model"]["vocab"]
    words = ["the", "light", "\u200b", "打"]
    encoded = tokenizer.encode_words(words)
    assert encoded[0] == _pieces(vocabulary, "the")
    assert encoded[2] == [vocabulary["[UNK]"]]
    assert tokenizer.encode("the light") == encoded[0] + encoded[1]


def test_marks_are_what_the_file_puts_around_a_sentence(wordpiece: bytes) -> None:
    vocabulary = json.loads(wordpiece)["model"]["vocab"]
    assert HuggingFaceTokenizer(wordpiece).marks == ([vocabulary["[CLS]"]], [vocabulary["[SEP]"]])
    assert HuggingFaceTokenizer(_byte_level("right").to_str().encode()).marks == ([], [])
    unigram = _unigram()
    behind = [unigram.token_to_id("<sep>"), unigram.token_to_id("<cls>")]
    assert HuggingFaceTokenizer(unigram.to_str().encode()).marks == ([], behind)
    assert SentencePieceTokenizer(tokenizer_model()).marks == ([], [])


def test_sentencepiece_has_no_marks_and_pads_behind_with_0() -> None:
    tokenizer = SentencePieceTokenizer(tokenizer_model())
    ids = tokenizer.encode("turn left")
    pieces = tokenizer.lay_out("turn left", len(ids) + 2)
    assert (list(pieces.ids), list(pieces.mask)) == ([*ids, 0, 0], [1] * len(ids) + [0, 0])
    assert list(tokenizer.lay_out("turn left", 1).ids) == ids[:1]


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff\xfe\x00", b'{"version": "1.0", "model": {"type": "nothing"}}'])
def test_what_is_no_tokenizer_is_one_line(kind: str, raw: bytes) -> None:
    with pytest.raises(BundleError, match=r"^tokenizer\.(model|json): not a .*; rebuild the bundle$") as refused:
        load_tokenizer(kind, raw).encode("turn left")
    assert "\n" not in str(refused.value)


def test_a_device_without_the_library_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, wordpiece: bytes
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BundleError, match="install it: pip install 'edge-runtime.tokenizers.'"):
        HuggingFaceTokenizer(wordpiece)
