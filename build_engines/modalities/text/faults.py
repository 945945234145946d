"""What befalls sentences: words that speech recognition gets wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from calibration.moments import RawMessage
from edge_runtime.messages import Words

WORD_ERRORS = 0.15
"""Share of words that are dropped, exchanged or replaced: the word error rate of speech recognition in a noisy room."""


class Misheard:
    """Word errors as speech recognition makes them: a word is dropped, changes places, or becomes another that was
    said before. Sentences without spaces (Chinese) are changed by character."""

    def __init__(self, rate: float = WORD_ERRORS, same_count: bool = False) -> None:
        """`same_count`: words are replaced only, so that each word's tag stays with its place."""
        self._rate = rate
        self._same_count = same_count
        self._heard: list[str] = []

    def __call__(self, raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        text = raw.content.text
        gap = " " if re.search(r"\w\s+\w", text) else ""
        units = text.split() if gap else list(text)
        self._heard = [*self._heard[-500:], *units]
        heard: list[str] = []
        for unit in units:
            if rng.random() >= self._rate:
                heard.append(unit)
                continue
            error = 2 if self._same_count else rng.integers(3)
            if error == 1 and heard:
                heard.insert(-1, unit)
            elif error == 2:
                heard.append(self._heard[int(rng.integers(len(self._heard)))])
        # Recognition that hears nothing sends nothing; a sentence that loses all its words keeps one.
        return replace(raw, held=Words(gap.join(heard or units[:1]), raw.content.lang))
