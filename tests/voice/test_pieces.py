"""Pieces of text: the order of merges, by a vocabulary that can be followed by hand."""

from __future__ import annotations

import pytest

from edge_runtime.voice.pieces import END, START, Pieces

MERGES = ["▁t", "he", "in", "▁the", "er", "▁in", "▁them"]
LETTERS = ["▁", *"abcdefghijklmnopqrstuvwxyz", ",", "."]


def written(pieces: list[str]) -> bytes:
    data = b""
    for piece in pieces:
        raw = piece.encode()
        size = bytes([len(raw)]) if len(raw) < 128 else bytes([128 + len(raw) % 128, len(raw) // 128])
        data += size + raw
    return data


VOCABULARY = ["<unk>", "<s>", "</s>", "", *MERGES, "x" * 200, *LETTERS]
PIECES = Pieces(written(VOCABULARY))


def shown(text: str) -> list[str]:
    return [VOCABULARY[number] for number in PIECES.encode(text)]


def test_the_merge_that_was_learnt_first_comes_first() -> None:
    assert shown("the") == ["▁the"]
    assert shown("them") == ["▁them"]
    assert shown("her") == ["▁", "he", "r"], "he was learnt before er"
    assert shown("in the inn") == ["▁in", "▁the", "▁in", "n"]
    assert shown("tin") == ["▁t", "in"]


def test_text_comes_back() -> None:
    for text in ("in the inn", "them", "a, b."):
        assert PIECES.decode([START, *PIECES.encode(text), END]) == text.replace("inn", "inn")
    assert PIECES.decode([VOCABULARY.index("x" * 200)]) == "x" * 200


def test_what_has_no_piece_is_named() -> None:
    with pytest.raises(ValueError, match="no piece for 'ß'"):
        PIECES.encode("straße")


def test_pieces_know_where_words_begin() -> None:
    assert PIECES.starts_word(PIECES.encode("the")[0]) and not PIECES.starts_word(PIECES.encode("tin")[1])
    assert PIECES.id_of(",") == VOCABULARY.index(",") and PIECES.id_of("!") is None and len(PIECES) == len(VOCABULARY)


@pytest.mark.parametrize("data", [b"", b"\x05ab", b"\x81", b"\x01a\x01b\x01c\x01d", written(VOCABULARY) + b"\x05ab"])
def test_what_is_no_vocabulary_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is cut short|is no vocabulary"):
        Pieces(data)
