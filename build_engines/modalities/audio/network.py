"""The encoder of sound in torch: a small convolutional network over log-mel frames.

Shapes: B windows, T frames, M mel bands, d features. Operators as in `layers`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from build_engines.modalities.audio.recipe import AudioRecipe
from build_engines.modalities.layers import Encoded, FeatureHead


class AudioEncoder(nn.Module):
    """frames float32 [B, T, M] and mask float32 [B, T, 1] to features [B, d].

    The frames as a picture of one channel; each convolution halves time and frequency. What is left is averaged over
    frequency, and of time the mean and the maximum are kept: a sound counts wherever in the window it is.
    """

    def __init__(self, recipe: AudioRecipe, features: int) -> None:
        super().__init__()
        self.noise, self.gain, self.hidden = recipe.noise, recipe.gain, recipe.mask
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((1, *recipe.widths)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.head = FeatureHead(2 * recipe.widths[-1], features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Encoded:
        x = (self._changed(frames) if self.training else frames) * mask
        maps = self.layers(x.unsqueeze(1)).mean(3)
        encoded: Encoded = self.head(torch.cat([maps.mean(2), maps.amax(2)], dim=-1))
        return encoded

    def _changed(self, frames: Tensor) -> Tensor:
        count, steps, bands = frames.shape
        frames = frames + self.noise * torch.randn_like(frames)
        frames = frames + self.gain * torch.randn(count, 1, 1, device=frames.device)
        if self.hidden:
            frames = (
                frames
                * _hidden(count, steps, self.hidden).unsqueeze(2).to(frames.device)
                * _hidden(count, bands, self.hidden).unsqueeze(1).to(frames.device)
            )
        return frames


def _hidden(count: int, length: int, most: float) -> Tensor:
    """[count, length]: 0 in one run of up to `most` of the length, anywhere, else 1."""
    run = torch.rand(count, 1) * most * length
    start = torch.rand(count, 1) * (length - run)
    place = torch.arange(length)[None]
    return 1.0 - ((place >= start) & (place < start + run)).float()
