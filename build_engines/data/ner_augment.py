"""Changed copies of tagged sentences: what a name looks like and where it stands must count, not which one it is.

Entity replacement as in Dai and Adel 2020, "An analysis of simple data augmentation for named entity recognition"
(arXiv:2010.11683), section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from build_engines.recipe import WordsRecipe

VOWELS, CONSONANTS, DIGITS = "aeiou", "bcdfghjklmnprstvw", "0123456789"


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence: its words, and their tags in IOB2."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


def spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, the word after the last, and type of each entity; `tags` are IOB2."""
    entities: list[tuple[int, int, str]] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            entities.append((index, index + 1, tag[2:]))
        elif tag.startswith("I-") and entities and entities[-1][1] == index:
            entities[-1] = (entities[-1][0], index + 1, entities[-1][2])
    return entities


class SentenceAugmenter:
    """Changes sentences as the recipe says, with the entities of the training split."""

    def __init__(self, plan: WordsRecipe, train: Sequence[Tagged]) -> None:
        self._plan = plan
        self._entities: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for sentence in train:
            for start, end, kind in spans(sentence.tags):
                self._entities[kind].append(sentence.words[start:end])

    def __call__(self, sentence: Tagged, rng: np.random.Generator) -> Tagged:
        """`sentence`, changed at random."""
        words, tags = list(sentence.words), list(sentence.tags)
        for start, end, kind in reversed(spans(sentence.tags)):
            mention: Sequence[str] = words[start:end]
            if rng.random() < self._plan.swap:
                choices = self._entities[kind]
                mention = choices[int(rng.integers(len(choices)))]
            if rng.random() < self._plan.respell:
                mention = [respelled(word, rng) for word in mention]
            words[start:end] = mention
            tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (len(mention) - 1)]
        chance = rng.random()
        if chance < self._plan.case:
            words = [word.lower() for word in words]
        elif chance < 1.2 * self._plan.case:
            words = [word.upper() for word in words]
        return Tagged(sentence.id, tuple(words), tuple(tags))


def respelled(word: str, rng: np.random.Generator) -> str:
    """About half of the letters and digits replaced by others of their kind and case."""
    return "".join(_other(char, rng) if rng.random() < 0.5 else char for char in word)


def _other(char: str, rng: np.random.Generator) -> str:
    low = char.lower()
    pool = VOWELS if low in VOWELS else CONSONANTS if char.isalpha() else DIGITS if char.isdigit() else char
    drawn = pool[int(rng.integers(len(pool)))]
    return drawn.upper() if char.isupper() else drawn
