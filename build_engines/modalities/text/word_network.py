"""The text encoder of a tagging head, in torch: features for every word of a sentence.

Shapes: B sentences, W words, P pieces of a word, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from build_engines.modalities.text.recipe import TextRecipe
from build_engines.modalities.text.word_lists import TRAITS

KERNELS = (1, 3, 5)
REACH = 3.0
"""Largest value that a convolution of pieces gives, as of a ReLU6 (Howard et al. 2017, arXiv:1704.04861): pieces
that are rare where the model is calibrated or used, such as those of addresses, must not stretch INT8's ranges."""


class WordEncoder(nn.Module):
    """ids int32 [B, W, P] and mask float32 [B, W, P] to features [B, W, d].

    A word is what its pieces say: their mean, and maxima over 1, 3 and 5 piece convolutions (dos Santos and Zadrozny
    2014). Words then see their neighbours by `layers` gated convolutions of 3 words with skip connections (Dauphin et
    al. 2017, arXiv:1612.08083).

    With a lexicon, the encoder also answers what lists say of a word by itself, and adds its answer to the word.
    """

    def __init__(self, recipe: TextRecipe, tokens: int, vocabulary: int, features: int) -> None:
        super().__init__()
        del tokens  # the convolutions take any length
        width, size = recipe.width, recipe.width // 2
        self.token_dropout = recipe.token_dropout
        self.dropout = nn.Dropout(recipe.dropout)
        self.embedding = nn.Embedding(vocabulary, size)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.spelling = nn.ModuleList([nn.Conv1d(size, width, kernel, padding=kernel // 2) for kernel in KERNELS])
        self.word = nn.Linear(len(KERNELS) * width + size, width)
        self.word_norm = nn.LayerNorm(width)
        self.listed = bool(recipe.lexicon)
        if self.listed:
            self.traits, self.known = nn.Linear(width, len(TRAITS)), nn.Linear(len(TRAITS), width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(recipe.layers)])
        self.context = nn.ModuleList([nn.Conv1d(width, 2 * width, 3, padding=1) for _ in range(recipe.layers)])
        self.project = nn.Linear(2 * width, features)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features, and no auxiliary logits: every word is labelled as it is."""
        valid = mask.amax(2).unsqueeze(-1)
        if self.training:
            hidden = torch.rand(*mask.shape[:2], 1, device=mask.device) < self.token_dropout
            words = self._only_words(ids, mask * ~hidden, valid)
        else:
            words = self._spelled(ids.flatten(0, 1), mask.flatten(0, 1)).reshape(*ids.shape[:2], -1) * valid
        x = self.dropout(words)
        for norm, layer in zip(self.norms, self.context, strict=True):
            gate, value = layer((norm(x) * valid).transpose(1, 2)).transpose(1, 2).chunk(2, -1)
            x = x + self.dropout(torch.sigmoid(gate) * torch.tanh(value))
        return self.project(self.dropout(torch.cat([x, words], -1))), {}

    def _only_words(self, ids: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        """The same as in evaluation without the work for places where there is no word."""
        rows, places = valid[..., 0].nonzero(as_tuple=True)
        spelled = self._spelled(ids[rows, places], mask[rows, places])
        whole = torch.zeros(*ids.shape[:2], spelled.shape[-1], device=spelled.device)
        return whole.index_put((rows, places), spelled)

    def trait_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask [N, P] to the logits [N, traits] of what lists say of each word; with a lexicon only."""
        logits: Tensor = self.traits(self._read(ids, mask))
        return logits

    def _spelled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask [N, P] to word features [N, width]."""
        features = self._read(ids, mask)
        if self.listed:
            features = features + self.known(torch.sigmoid(self.traits(features)))
        return features

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask [N, P] to what the pieces say [N, width]."""
        valid = mask.unsqueeze(-1)
        pieces = self.dropout(self.embedding(ids)) * valid
        across, valid_across = pieces.transpose(1, 2), valid.transpose(1, 2)
        maxima = [(relu(layer(across)) * valid_across).amax(2).clamp(max=REACH) for layer in self.spelling]
        mean = pieces.sum(1) / valid.sum(1).clamp(min=1.0)
        features: Tensor = self.word_norm(self.word(self.dropout(torch.cat([*maxima, mean], -1))))
        return features
