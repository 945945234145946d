"""Layers of torch that several networks are made of.

Shapes: B rows of one modality, d features, L tokens. All operators of the networks have a plain ONNX opset 20 form that
every TensorRT since 10.3 accepts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

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
