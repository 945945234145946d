"""Listed words, drawn at random and written as people write them: what a word encoder learns beside the sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.data.ner_augment import respelled
from build_engines.data.tokenizer import SamplingEncoder
from build_engines.modalities.text.word_lists import NAME_TRAITS, WordLists
from edge_runtime.streams import TextStream

NONSENSE, HASHED = 0.05, 0.03
"""Chance that a listed word is respelled into one that no list holds, and of a `#` before a word."""
CAPITAL, NAME_CAPITAL, ALL_CAPITALS = 0.3, 0.7, 0.05
"""Chance of a capital at the beginning of a common word and of a name, and of capitals throughout."""


@dataclass(frozen=True)
class ListedWords:
    """Words as pieces (int32 [n, P] and their mask float32), and what holds of them (float32 [n, traits])."""

    ids: NDArray[np.int32]
    mask: NDArray[np.float32]
    traits: NDArray[np.float32]


class Lexicon:
    """Draws listed words, written as people write them."""

    def __init__(self, lists: WordLists, tokenizer: bytes, spec: TextStream, seed: int) -> None:
        self._lists = lists
        self.words: Sequence[str] = lists.words()
        self.traits = lists.traits(self.words)
        self._names: NDArray[np.bool_] = np.any(self.traits[:, NAME_TRAITS:] > 0, axis=1)
        # The fourth root of the frequency: what is read often matters more, but rare names are what is to be learned.
        zipf = np.array([lists.zipf.get(word, 0.0) for word in self.words])
        chances = 10 ** (np.clip(zipf, 2.5, 6.0) / 4)
        self._steps = np.cumsum(chances / chances.sum())
        self._encoder = SamplingEncoder(tokenizer, msgspec.structs.replace(spec, max_tokens=1), 0.0, seed)

    def draw(self, count: int, rng: np.random.Generator) -> ListedWords:
        """`count` words at random."""
        chosen = np.minimum(np.searchsorted(self._steps, rng.random(count)), len(self.words) - 1)
        traits = self.traits[chosen]
        written = []
        for row, index in enumerate(chosen):
            word, chance = self.words[index], rng.random(4)
            if chance[0] < NONSENSE:
                word = respelled(word, rng)
                traits[row] = self._lists.traits([word])[0]
            written.append(_written(word, bool(self._names[index]), chance))
        ids, mask = self._encoder.encode_words([[word] for word in written])
        return ListedWords(ids[:, 0], mask[:, 0], traits)


def _written(word: str, name: bool, chance: NDArray[np.float64]) -> str:
    if chance[1] < ALL_CAPITALS:
        word = word.upper()
    elif chance[2] < (NAME_CAPITAL if name else CAPITAL):
        word = word.capitalize()
    return f"#{word}" if chance[3] < HASHED else word
