"""A normalisation for SentencePiece that tells capitals apart without a second set of pieces for them.

A capital becomes a mark and its small letter, so that `London`, `london` and `LONDON` share their letters. The rules
travel within the tokenizer, so the device needs nothing new.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

MARK = "\ue000"
"""Before a letter that was a capital; of the private use area, where no text has meaning."""


def rules() -> str:
    """SentencePiece's `normalization_rule_tsv`: every character that NFKC or the mark changes, in hexadecimal.

    Characters one by one: letters and accents that are apart stay apart. Depends on Python's version of Unicode.
    """
    return "".join(f"{_hex(before)}\t{_hex(after)}\n" for before, after in _changes())


def _changes() -> Iterator[tuple[str, str]]:
    for char in map(chr, range(ord("!"), sys.maxunicode + 1)):
        if unicodedata.category(char) in ("Cs", "Co", "Cn", "Cc"):
            continue
        # Some signs stand for a space and an accent; a word holds no space.
        plain = unicodedata.normalize("NFKC", char).replace(" ", "") or char
        marked = "".join(
            MARK + letter.lower() if letter.isupper() and letter.lower() != letter else letter for letter in plain
        )
        if marked != char:
            yield char, marked


def _hex(text: str) -> str:
    return " ".join(f"{ord(char):X}" for char in text)
