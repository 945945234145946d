"""An encoder around a network that others trained.

Shapes: B rows of one modality, d features.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from onnx import ModelProto
from torch import Tensor, nn

from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.pretrained.shelf import Origin


class PretrainedEncoder(nn.Module, ABC):
    """The network's first blocks as they are, its last blocks (none, unless the recipe unfreezes some) and a head that
    learn.

    What the frozen part makes of an input never changes, so that training may keep it: `finish(kept(*inputs), *inputs)`
    is what a call gives.
    """

    head: FeatureHead
    _frozen: nn.Module
    _unfrozen: nn.Module

    def __init__(self, origin: Origin, views: int, rate: float) -> None:
        super().__init__()
        self.origin = origin
        self.views = views
        """Versions of each input of which training keeps what the frozen part makes; 0 = none is kept."""
        self.rate = rate
        """Of the unfrozen blocks' learning: a part of the rest's."""

    def forward(self, *inputs: Tensor) -> Encoded:
        return self.finish(self.kept(*inputs), *inputs)

    @abstractmethod
    def kept(self, *inputs: Tensor) -> Tensor:
        """What the frozen part makes of `inputs` [B, ...], a row by itself each; no gradients."""

    @abstractmethod
    def finish(self, kept: Tensor, *inputs: Tensor) -> Encoded:
        """The rest of the way."""

    @property
    def frozen(self) -> nn.Module:
        """The part whose weights stay."""
        return self._frozen

    @property
    def unfrozen(self) -> nn.Module:
        """The part of the network that learns on, more slowly than the head."""
        return self._unfrozen

    @property
    def stays(self) -> bool:
        """Whether anything of the network stays as it was trained."""
        return any(True for _ in self.frozen.parameters())

    def frozen_digest(self) -> str:
        """sha256 (hex) of all that `kept` depends on, but its inputs."""
        total = hashlib.sha256(f"{self.origin.network} {len(list(self.unfrozen.children()))}".encode())
        for value in self.frozen.state_dict().values():
            total.update(value.cpu().numpy().tobytes())
        return total.hexdigest()

    def graph(self, rows: int) -> ModelProto | None:
        """What `kept` does to `rows` rows at once, where that is a graph already and not torch's to export; its inputs
        are called as the stream's fields."""
        return None

    def reference(self, *inputs: Tensor) -> Tensor:
        """What `kept` should be, by the network as it came."""
        return self.kept(*inputs)

    def slow_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the unfrozen blocks."""
        return (value for value in self.unfrozen.parameters() if value.requires_grad)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Only the head has a training mode: a few rows' statistics are no match for those that the batch norms bring
        along."""
        super().train(False)
        self.training = mode
        self.head.train(mode)
        return self

    def _freeze(self) -> None:
        for value in self.frozen.parameters():
            value.requires_grad_(False)


@torch.no_grad()
def network_in_use(encoder: PretrainedEncoder) -> int:
    """How many parameters the network has, those of the head left out."""
    return sum(value.numel() for part in (encoder.frozen, encoder.unfrozen) for value in part.parameters())
