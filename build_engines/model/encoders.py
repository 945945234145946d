"""The encoders in torch, one per modality.

Shapes: B rows of one modality, d features, T steps, C channels, L tokens. All operators have a plain ONNX opset 20 form
that every TensorRT since 10.3 accepts.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from build_engines.recipe import SensorsRecipe, TextRecipe, VisionRecipe

Encoded = tuple[Tensor, dict[str, Tensor]]
"""Features [B, d], and the logits [B, classes] of each auxiliary label."""


class FeatureHead(nn.Module):
    """From an encoder's hidden values to its d features, and the auxiliary logits beside them.

    With `in_features` the last of the d features are the auxiliary heads' probabilities, so that fusion can reason
    over what each modality says by itself.
    """

    def __init__(self, hidden: int, features: int, aux: dict[str, int], in_features: bool, dropout: float) -> None:
        super().__init__()
        self.in_features = in_features
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(hidden, features - (sum(aux.values()) if in_features else 0))
        self.norm = nn.LayerNorm(self.project.out_features)
        # A module's name may hold no dot; the auxiliary labels' names come from the recipe.
        self.names = tuple(aux)
        self.heads = nn.ModuleList([nn.Linear(hidden, classes) for classes in aux.values()])

    def forward(self, hidden: Tensor) -> Encoded:
        """`hidden` [B, h] to features [B, d] and logits by auxiliary label [B, classes]."""
        hidden = self.dropout(hidden)
        logits = {name: head(hidden) for name, head in zip(self.names, self.heads, strict=True)}
        features = self.norm(self.project(hidden))
        if self.in_features and logits:
            features = torch.cat([features, *(value.softmax(-1) for value in logits.values())], dim=-1)
        return features, logits


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    # Flat, since the modules' places are the names under which weights are kept.
    return nn.Sequential(*_normed(inputs, outputs, 3, stride), nn.ReLU(inplace=True))


def _normed(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two convolutions and a skip around them (He et al. 2015, arXiv:1512.03385): the basic block, projected where
    width or size changes. In a graph: Conv, Relu, Add; the batch norms are folded.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = _normed(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else _normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride], rounded up."""
        return relu(self.second(self.first(x)) + self.skip(x))


def _residual(widths: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Sequential:
    """A halving convolution, then for each further width a halving block and the rest of its `blocks`."""
    layers: list[nn.Module] = [_conv(3, widths[0], 2)]
    for (inputs, outputs), count in zip(pairwise(widths), blocks, strict=True):
        layers.append(ResidualBlock(inputs, outputs, 2))
        layers += [ResidualBlock(outputs, outputs, 1) for _ in range(count - 1)]
    return nn.Sequential(*layers)


class VisionEncoder(nn.Module):
    """uint8 [B, H, W, 3] BGR to features [B, d]."""

    def __init__(self, recipe: VisionRecipe, height: int, width: int, features: int) -> None:
        super().__init__()
        if recipe.kind == "residual":
            self.layers = _residual(recipe.widths, recipe.blocks or (1,) * (len(recipe.widths) - 1))
        else:
            self.layers = nn.Sequential(*(_conv(a, b, 2) for a, b in pairwise((3, *recipe.widths))))
        self.grid = recipe.pool == "grid"
        hidden = recipe.widths[-1]
        if self.grid:
            for _ in recipe.widths:
                height, width = (height + 1) // 2, (width + 1) // 2
            hidden *= height * width
        self.head = FeatureHead(hidden, features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def forward(self, image: Tensor) -> Encoded:
        # Cast before transposing: TensorRT has uint8 at its inputs only.
        pixels = image.float().permute(0, 3, 1, 2) * (1 / 64) - 2.0
        maps = self.layers(pixels)
        encoded: Encoded = self.head(maps.flatten(1) if self.grid else maps.mean((2, 3)))
        return encoded


class Attention(nn.Module):
    """A pre-norm Transformer layer (Vaswani et al. 2017, arXiv:1706.03762), written out for a plain graph."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [B, L, width]; `bias` [B, 1, 1, L] is added to the scores (0, or very negative where hidden)."""
        rows, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)

        y = self.norm1(x)
        scores = split(self.query(y)) @ split(self.key(y)).transpose(2, 3) * (self.heads / width) ** 0.5
        if bias is not None:
            scores = scores + bias
        mixed = (scores.softmax(-1) @ split(self.value(y))).transpose(1, 2).reshape(rows, length, width)
        x = x + self.dropout(self.out(mixed))
        return torch.add(x, self.dropout(self.down(gelu(self.up(self.norm2(x))))))


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
        there = mask.unsqueeze(-1)
        parts = self._attend(x, mask, there) if self.position is not None else self._convolve(x, mask, there)
        encoded: Encoded = self.head(torch.cat(parts, dim=-1))
        return encoded

    def _attend(self, x: Tensor, mask: Tensor, there: Tensor) -> list[Tensor]:
        assert self.position is not None
        x = x + self.position
        bias = ((mask - 1) * _HIDDEN).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, bias)
        return [_mean(x, there), _maximum(x, there)]

    def _convolve(self, x: Tensor, mask: Tensor, there: Tensor) -> list[Tensor]:
        x = x * there
        across = x.transpose(1, 2)
        maxima = [_maximum(relu(layer(across)).transpose(1, 2), there) for layer in self.layers]
        return [_mean(x, there), *maxima]


def _mean(x: Tensor, there: Tensor) -> Tensor:
    return (x * there).sum(1) / there.sum(1).clamp(min=1.0)


def _maximum(x: Tensor, there: Tensor) -> Tensor:
    return (x * there + (there - 1) * _HIDDEN).amax(1).clamp(min=-10.0)


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
