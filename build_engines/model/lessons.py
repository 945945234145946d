"""Teach a word encoder what lists say of words, before and while it learns to tag.

A few thousand sentences show few names; lists hold many. The encoder learns to tell from a word's pieces how common it
is and which lists hold it (multi-task learning with a gazetteer's knowledge in the place of its look-up), and sees its
own answer as a part of the word: see `WordEncoder`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from build_engines.data.lexicon import Lexicon
from build_engines.modalities.text.word_network import WordEncoder
from build_engines.model.device import device_in_use
from build_engines.recipe import LexiconRecipe


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
        device = device_in_use(self._encoder)
        logits = self._encoder.trait_logits(
            torch.from_numpy(drawn.ids[:, :longest]).to(device), torch.from_numpy(drawn.mask[:, :longest]).to(device)
        )
        return binary_cross_entropy_with_logits(logits.cpu(), torch.from_numpy(drawn.traits))
