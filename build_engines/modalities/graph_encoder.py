"""An encoder around a network that comes as a file of its own: a graph, which stays as it is.

Shapes: B rows of one modality, w hidden values, d features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from onnx import ModelProto
from torch import Tensor, nn

from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.pretrained.network_file import NetworkFile
from build_engines.pretrained.recipe import PretrainedKeys
from build_engines.pretrained.shelf import Origin
from edge_runtime.errors import UserError


class GraphEncoder(PretrainedEncoder):
    """What the stream gives, by field, to features [B, d]: a projection of the network's hidden values.

    The network runs in ONNX Runtime, in training as on the device; in the stage's graph it stands before the head.
    """

    def __init__(
        self, origin: Origin, network: NetworkFile, keys: PretrainedKeys, table: str, features: int,
        aux: Mapping[str, int], aux_in_features: bool, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__(origin, keys.views, keys.unfreeze_rate)
        if keys.unfreeze:
            raise UserError(f"{table}.unfreeze is {keys.unfreeze}; a network from a file of its own stays as it is: 0")
        self.network = network
        self._frozen, self._unfrozen = nn.Module(), nn.Module()
        self.head = FeatureHead(network.width, features, dict(aux), aux_in_features, dropout)

    def kept(self, *inputs: Tensor) -> Tensor:
        """[B, w]."""
        return torch.from_numpy(self.network([value.cpu().numpy() for value in inputs])).to(inputs[0].device)

    def finish(self, kept: Tensor, *inputs: Tensor) -> Encoded:
        encoded: Encoded = self.head(kept)
        return encoded

    @property
    def stays(self) -> bool:
        return True

    def frozen_digest(self) -> str:
        return self.network.sha256

    def graph(self, rows: int) -> ModelProto:
        return self.network.for_rows(rows)

    def reference(self, *inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.network.reference([value.numpy() for value in inputs]))
