"""The encoder of sentences in torch.

Shapes: B sentences, d features, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from build_engines.modalities.layers import Attention, Encoded, FeatureHead
from build_engines.modalities.text.recipe import TextRecipe

_HIDDEN = 1e4
"""Subtracted where a token is hidden: far below any activation, and still a float16."""


class TextEncoder(nn.Module):
    """ids int32 [B, L] and mask float32 [B, L] to features [B, d].

    `conv`: mean of the embeddings, and maxima over time of 1, 3 and 5 token convolutions (Kim 2014,
    arXiv:1408.5882), repeated `layers` deep. `transformer`: mean and maximum of self-attention layers.
    """

    def __init__(self, recipe: TextRecipe, tokens: int, vocabulary: int, features: int) -> None:
        super().__init__()
        width = recipe.width
        self.token_dropout = recipe.token_dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(recipe.dropout)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02) if recipe.kind == "transformer" else None
        if recipe.kind == "transformer":
            nn.init.normal_(self.embedding.weight, std=0.3)
            self.layers = nn.ModuleList([Attention(width, recipe.heads, recipe.dropout) for _ in range(recipe.layers)])
            hidden = 2 * width
        else:
            self.layers = nn.ModuleList([nn.Conv1d(width, width, k, padding=k // 2) for k in (1, 3, 5)])
            hidden = 4 * width
        self.head = FeatureHead(hidden, features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Encoded:
        if self.training and self.token_dropout > 0:
            mask = mask * (torch.rand_like(mask) >= self.token_dropout)
        x = self.dropout(self.embedding(ids))
        valid = mask.unsqueeze(-1)
        parts = self._attend(x, mask, valid) if self.position is not None else self._convolve(x, mask, valid)
        encoded: Encoded = self.head(torch.cat(parts, dim=-1))
        return encoded

    def _attend(self, x: Tensor, mask: Tensor, valid: Tensor) -> list[Tensor]:
        assert self.position is not None
        x = x + self.position
        bias = ((mask - 1) * _HIDDEN).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, bias)
        return [_mean(x, valid), _maximum(x, valid)]

    def _convolve(self, x: Tensor, mask: Tensor, valid: Tensor) -> list[Tensor]:
        x = x * valid
        across = x.transpose(1, 2)
        maxima = [_maximum(relu(layer(across)).transpose(1, 2), valid) for layer in self.layers]
        return [_mean(x, valid), *maxima]


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid).sum(1) / valid.sum(1).clamp(min=1.0)


def _maximum(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid + (valid - 1) * _HIDDEN).amax(1).clamp(min=-10.0)
