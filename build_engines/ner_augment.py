"""Changed copies of tagged sentences: what a name looks like and where it stands must count, not which one it is.

Entity replacement as in Dai and Adel 2020, "An analysis of simple data augmentation for named entity recognition"
(arXiv:2010.11683), section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from build_engines.common_names import CommonNames, common_words
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
    found: list[tuple[int, int, str]] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((index, index + 1, tag[2:]))
        elif tag.startswith("I-") and found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1, found[-1][2])
    return found


class SentenceAugmenter:
    """Changes sentences as the recipe says, with the entities of the training split."""

    def __init__(self, plan: WordsRecipe, train: Sequence[Tagged]) -> None:
        self._plan = plan
        self._entities: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for one in train:
            for start, end, kind in spans(one.tags):
                self._entities[kind].append(one.words[start:end])
        self._names = CommonNames() if plan.known else None
        self._words = common_words() if plan.common else []

    def __call__(self, one: Tagged, rng: np.random.Generator) -> Tagged:
        """`one`, changed at random."""
        words, tags = list(one.words), list(one.tags)
        for start, end, kind in reversed(spans(one.tags)):
            mention: Sequence[str] = words[start:end]
            if rng.random() < self._plan.swap:
                mention = self._other(kind, rng)
            if rng.random() < self._plan.respell:
                mention = [_respelled(word, rng) for word in mention]
            words[start:end] = mention
            tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (len(mention) - 1)]
        self._change_outside(words, tags, rng)
        chance = rng.random()
        if chance < self._plan.case:
            words = [word.lower() for word in words]
        elif chance < 1.2 * self._plan.case:
            words = [word.upper() for word in words]
        return Tagged(one.id, tuple(words), tuple(tags))

    def _change_outside(self, words: list[str], tags: Sequence[str], rng: np.random.Generator) -> None:
        """Give words that are no part of an entity a capital, or another word's place, in `words`."""
        plan = self._plan
        if plan.capitals == plan.common == 0:
            return
        chances = rng.random((len(words), 2))
        for index, (tag, word) in enumerate(zip(tags, list(words), strict=True)):
            if tag[:2] in ("B-", "I-") or not word.isalpha():
                continue
            if chances[index, 0] < plan.common:
                other = self._words[int(rng.integers(len(self._words)))]
                words[index] = other.capitalize() if chances[index, 1] < 0.5 else other
            elif chances[index, 1] < plan.capitals:
                words[index] = word.capitalize()

    def _other(self, kind: str, rng: np.random.Generator) -> Sequence[str]:
        """Another entity of this type."""
        if self._names is not None and kind in self._plan.known and rng.random() < self._plan.known_share:
            return self._names.draw(self._plan.known[kind], rng)
        choices = self._entities[kind]
        return choices[int(rng.integers(len(choices)))]


def _respelled(word: str, rng: np.random.Generator) -> str:
    """About half of the letters and digits replaced by others of their kind and case."""
    return "".join(_other(char, rng) if rng.random() < 0.5 else char for char in word)


def _other(char: str, rng: np.random.Generator) -> str:
    low = char.lower()
    pool = VOWELS if low in VOWELS else CONSONANTS if char.isalpha() else DIGITS if char.isdigit() else char
    made = pool[int(rng.integers(len(pool)))]
    return made.upper() if char.isupper() else made
