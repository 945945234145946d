"""Teach a word encoder what lists say of words, before and while it learns to tag.

A few thousand sentences show few names; lists hold many. The encoder learns to tell from a word's pieces how common it
is and which lists hold it (multi-task learning with a gazetteer's knowledge in the place of its look-up), and sees its
own answer as a part of the word: see `WordEncoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from build_engines.ner_augment import respelled
from build_engines.recipe import LexiconRecipe
from build_engines.tokenizer import SamplingEncoder
from build_engines.word_encoder import WordEncoder
from build_engines.word_lists import NAME_TRAITS, WordLists
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


class Lessons:
    """The loss of listed words, and the training by them alone that comes first."""

    def __init__(self, plan: LexiconRecipe, lexicon: Lexicon, encoder: WordEncoder) -> None:
        self._plan, self._lexicon, self._encoder = plan, lexicon, encoder
        self.steps = round(plan.epochs * len(lexicon.words) / plan.batch)
        """Of the training by lists alone."""
        self._parameters = list(encoder.parameters())
        rate = plan.learning_rate
        self._optimiser = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.01)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimiser, rate, max(2, self.steps), pct_start=0.1)

    def step(self, rng: np.random.Generator) -> float:
        """One of `steps`: changes the encoder's weights, gives the loss."""
        dropout, self._encoder.dropout.p = self._encoder.dropout.p, self._plan.dropout
        loss = self.loss(self._plan.batch, rng)
        self._encoder.dropout.p = dropout
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 2.0)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())

    def beside(self, rng: np.random.Generator) -> Tensor:
        """What to add to the loss of a step of tagging, so that the encoder does not forget the lists."""
        return self._plan.weight * self.loss(self._plan.beside, rng)

    def loss(self, count: int, rng: np.random.Generator) -> Tensor:
        """Mean binary cross-entropy of the traits of `count` words drawn."""
        drawn = self._lexicon.draw(count, rng)
        longest = max(1, int(drawn.mask.sum(1).max()))  # the rest is empty
        logits = self._encoder.trait_logits(
            torch.from_numpy(drawn.ids[:, :longest]), torch.from_numpy(drawn.mask[:, :longest])
        )
        return binary_cross_entropy_with_logits(logits, torch.from_numpy(drawn.traits))
