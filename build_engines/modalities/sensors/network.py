"""The encoder of sensor windows in torch.

Shapes: B windows, d features, T steps, C channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.sensors.recipe import SensorsRecipe


class SensorsEncoder(nn.Module):
    """window and mask, float32 [B, T, C] each, to features [B, d]: an MLP, a temporal CNN or a GRU."""

    def __init__(self, recipe: SensorsRecipe, steps: int, channels: int, features: int) -> None:
        super().__init__()
        width = recipe.width
        self.kind, self.noise, self.channel_dropout = recipe.kind, recipe.noise, recipe.channel_dropout
        self.bias = recipe.bias
        if recipe.kind == "mlp":
            sizes = (2 * channels * steps, *(width for _ in range(recipe.layers)))
            blocks = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
            self.layers: nn.Module = nn.Sequential(*(module for block in blocks for module in block))
            hidden = width
        elif recipe.kind == "conv":
            sizes = (2 * channels, *(width for _ in range(recipe.layers)))
            pairs = [(nn.Conv1d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(sizes)]
            self.layers = nn.Sequential(*(module for pair in pairs for module in pair))
            hidden = 2 * width
        else:
            self.layers = nn.GRU(2 * channels, width, recipe.layers, batch_first=True)
            hidden = width
        self.head = FeatureHead(hidden, features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def forward(self, window: Tensor, mask: Tensor) -> Encoded:
        if self.training:
            window = window + self.noise * torch.randn_like(window)
            if self.bias:  # else nothing is drawn: recipes without it keep their weights
                drifted = torch.rand(window.shape[0], 1, 1, device=window.device) < self.bias
                window = window + drifted * torch.randn(window.shape[0], 1, window.shape[2], device=window.device)
            seen = torch.rand(mask.shape[0], 1, mask.shape[2], device=mask.device) >= self.channel_dropout
            mask = mask * seen
        x = torch.cat([window * mask, mask], dim=-1)
        if self.kind == "mlp":
            hidden = self.layers(x.flatten(1))
        elif self.kind == "conv":
            maps = self.layers(x.transpose(1, 2))
            hidden = torch.cat([maps.mean(2), maps[:, :, -1]], dim=-1)
        else:
            hidden = self.layers(x)[0][:, -1]
        encoded: Encoded = self.head(hidden)
        return encoded
