"""The fused model in torch: an encoder per modality and the fusion of their features.

Shapes: P fused pairs, n modalities (each camera, text, sensors, sound), d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.heads import build_of
from build_engines.modalities import modality_of_encoder
from build_engines.modalities.layers import Attention
from build_engines.recipe import FusionRecipe, Recipe
from edge_runtime.heads import Head


class ToUnits(nn.Module):
    """Raw outputs [P, V], of about -1 to 1, to values in their units: centre + spread * output."""

    centre: Tensor
    spread: Tensor

    def __init__(self, centre: NDArray[np.float64], spread: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32), persistent=False)
        self.register_buffer("spread", torch.tensor(spread, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        return self.centre + self.spread * outputs


def _head(head: Head, hidden: int, width: int, dropout: float) -> nn.Sequential:
    """From joined features [P, hidden] to what `head` reads."""
    build = build_of(head)
    layers = [nn.Linear(hidden, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, build.outputs(head))]
    scaling = build.scaling(head)
    return nn.Sequential(*layers, *([ToUnits(*scaling)] if scaling is not None else []))


class Fusion(nn.Module):
    """Features [P, n, d] and presence [P, n] (1 = there) to what the first head reads, e.g. logits [P, labels].

    Where a modality is absent its features are replaced by a learned token, whatever was fed.
    """

    fixed: Tensor

    def __init__(
        self, recipe: FusionRecipe, modalities: int, features: int, head: Head, weights: Sequence[float] = (),
        side_heads: Mapping[str, Head] | None = None,
    ) -> None:  # fmt: skip
        """`weights` fixes what kind `weighted` would else learn: one per modality, not negative. `side_heads`: those
        beside the first, by name; all read the same joined features."""
        super().__init__()
        self.kind = recipe.kind
        width = recipe.width
        self.absent = nn.Parameter(torch.zeros(modalities, features))
        joint = modalities * features
        if recipe.kind == "concat":
            hidden = joint + modalities
        elif recipe.kind == "weighted":
            self.alpha = None if weights else nn.Parameter(torch.zeros(modalities))
            self.register_buffer("fixed", torch.tensor(weights, dtype=torch.float32), persistent=False)
            self.projections = nn.ModuleList([nn.Linear(features, width) for _ in range(modalities)])
            hidden = width
        elif recipe.kind == "gated":
            self.gates = nn.Linear(joint + modalities, modalities * width)
            self.projections = nn.ModuleList([nn.Linear(features, width) for _ in range(modalities)])
            hidden = width
        else:
            self.kinds = nn.Parameter(torch.randn(modalities + 1, width) * 0.1)
            self.projections = nn.ModuleList([nn.Linear(features, width) for _ in range(modalities)])
            self.attention = Attention(width, recipe.heads, recipe.dropout)
            self.norm = nn.LayerNorm(width)
            hidden = width
        self.head = _head(head, hidden, width, recipe.dropout)
        self.side_heads = nn.ModuleDict(
            {name: _head(side_head, hidden, width, recipe.dropout) for name, side_head in (side_heads or {}).items()}
        )

    def forward(self, features: Tensor, presence: Tensor) -> Tensor:
        logits: Tensor = self.head(self.joined(features, presence))
        return logits

    def every(self, features: Tensor, presence: Tensor) -> dict[str, Tensor]:
        """What every head reads, by name; the first has an empty one."""
        joined = self.joined(features, presence)
        return {"": self.head(joined)} | {name: head(joined) for name, head in self.side_heads.items()}

    def joined(self, features: Tensor, presence: Tensor) -> Tensor:
        """[P, hidden]: the modalities as one."""
        present = presence.unsqueeze(-1)
        features = features * present + self.absent * (1 - present)
        if self.kind == "concat":
            joined = torch.cat([features.flatten(1), presence], dim=-1)
        elif self.kind == "weighted":
            joined = self._weighted(features, presence)
        elif self.kind == "gated":
            joined = self._gated(features, presence)
        else:
            joined = self._attended(features)
        return joined

    @torch.no_grad()
    def add_to_logits(self, offsets: Tensor) -> None:
        """Give every answer's logits these `offsets` [labels] more from now on."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.bias.add_(offsets)

    @property
    def weights(self) -> tuple[float, ...]:
        """What kind `weighted` multiplies each modality with where all are present; they sum to 1. Others: empty."""
        if self.kind != "weighted":
            return ()
        raw = self.fixed if self.alpha is None else self.alpha.detach().exp()
        return tuple((raw / raw.sum()).tolist())

    def _projected(self, features: Tensor) -> Tensor:
        return torch.stack([layer(features[:, i]) for i, layer in enumerate(self.projections)], dim=1)

    def _weighted(self, features: Tensor, presence: Tensor) -> Tensor:
        """alpha V + beta T + ..., the weights positive and summing to 1 over the modalities that are present."""
        weights = (self.fixed if self.alpha is None else self.alpha.exp()) * presence
        weights = weights / (weights.sum(1, keepdim=True) + 1e-6)
        return (weights.unsqueeze(-1) * torch.tanh(self._projected(features))).sum(1)

    def _gated(self, features: Tensor, presence: Tensor) -> Tensor:
        """Gated multimodal unit (Arevalo et al. 2017, arXiv:1702.01992): a gate per modality and dimension."""
        projected = torch.tanh(self._projected(features))
        gates = torch.sigmoid(self.gates(torch.cat([features.flatten(1), presence], dim=-1)))
        return (gates.reshape(projected.shape) * projected).sum(1)

    def _attended(self, features: Tensor) -> Tensor:
        tokens = self._projected(features) + self.kinds[1:]
        start = (tokens[:, :1] * 0) + self.kinds[:1]
        attended: Tensor = self.attention(torch.cat([start, tokens], dim=1))
        first: Tensor = self.norm(attended[:, 0])
        return first


class Tagger(nn.Module):
    """Features of every word [P, 1, W, d] to logits [P, W, labels], each word by itself: what stands around it is in
    its features already."""

    def __init__(self, recipe: FusionRecipe, features: int, labels: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(features, recipe.width), nn.ReLU(), nn.Dropout(recipe.dropout), nn.Linear(recipe.width, labels)
        )

    def forward(self, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """`presence` is taken for the sake of a common form; without text there is no word to tag."""
        logits: Tensor = self.head(features[:, 0])
        return logits

    def every(self, features: Tensor, presence: Tensor | None = None) -> dict[str, Tensor]:
        """The same by name, as of a fusion."""
        return {"": self(features, presence)}


class FusedModel(nn.Module):
    """All stages. `encode` and `fuse` are separate so that training may combine features freely."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        super().__init__()
        model, streams = recipe.model, recipe.streams
        self.modalities = recipe.modalities
        for name, encoder in model.encoders.items():
            spec = streams[encoder.streams[0]]
            self.add_module(name, modality_of_encoder(encoder).network(encoder, spec, vocabulary, model.features))
        self._encoders = tuple(model.encoders)
        self.batched = frozenset(name for name, one in model.encoders.items() if modality_of_encoder(one).batched)
        """The encoders that read several streams of one form: each a row of its own."""
        self.fusion: Fusion | Tagger
        if recipe.output_head.per_word:
            self.fusion = Tagger(model.fusion, model.features, len(recipe.labels))
        else:
            fixed = tuple(model.fusion.weights[name] for name in self.modalities) if model.fusion.weights else ()
            first, *others = recipe.heads.items()
            self.fusion = Fusion(model.fusion, len(self.modalities), model.features, first[1], fixed, dict(others))

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """Stage to its encoder, in the order of the presence mask."""
        return {name: self.get_submodule(name) for name in self._encoders}
