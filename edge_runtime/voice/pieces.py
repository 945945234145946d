"""Moonshine's pieces of text: the vocabulary of Llama (Touvron et al. 2023, arXiv:2302.13971), byte pair encoding."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

SPACE = "▁"
START, END = 1, 2
"""Ids of the marks around a sentence."""


class Pieces:
    """Text to ids and back. Any thread.

    The file holds each piece's bytes behind their count: one byte below 128, else two, low part first.
    """

    def __init__(self, data: bytes) -> None:
        """Raises ValueError where `data` is no vocabulary."""
        self._pieces: list[bytes] = []
        at = 0
        while at < len(data):
            count = data[at]
            at += 1
            if count >= 128:
                if at == len(data):
                    raise ValueError("is cut short")
                count += data[at] * 128 - 128
                at += 1
            if at + count > len(data):
                raise ValueError("is cut short")
            self._pieces.append(data[at : at + count])
            at += count
        # Of a letter and a byte that look the same (a byte stands for part of a character without a piece of its own)
        # the letter comes later, and is meant.
        self._ids = {piece: number for number, piece in enumerate(self._pieces) if piece}
        if SPACE.encode() not in self._ids or len(self._pieces) <= END:
            raise ValueError("is no vocabulary")
        self._encoded = lru_cache(maxsize=4096)(self._encode_word)

    def __len__(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, a space before its first word, without marks. Raises ValueError for what it has no piece for.

        Of two neighbours those are joined first whose piece has the lowest id: ids count in the order in which the
        merges were learnt. Word by word: no learnt piece reaches over a space.
        """
        return [piece for word in text.split() for piece in self._encoded(word)]

    def id_of(self, piece: str) -> int | None:
        """Of one piece, as it is written in the vocabulary."""
        return self._ids.get(piece.encode())

    def starts_word(self, piece: int) -> bool:
        """Whether a space is before it."""
        return self._pieces[piece].startswith(SPACE.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, marks left out."""
        joined = b"".join(piece for piece in (self._pieces[number] for number in ids) if not _mark(piece))
        return joined.decode(errors="replace").replace(SPACE, " ").strip()

    def _encode_word(self, word: str) -> tuple[int, ...]:
        parts = [character.encode() for character in SPACE + word]
        while len(parts) > 1:
            pairs = [self._ids.get(parts[place] + parts[place + 1]) for place in range(len(parts) - 1)]
            best = min((pair for pair in pairs if pair is not None), default=None)
            if best is None:
                break
            place = pairs.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        try:
            return tuple(self._ids[part] for part in parts)
        except KeyError as error:
            raise ValueError(f"no piece for {error.args[0].decode(errors='replace')!r}") from None


def _mark(piece: bytes) -> bool:
    return len(piece) > 2 and piece.startswith(b"<") and piece.endswith(b">")
