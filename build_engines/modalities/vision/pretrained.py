"""Pictures through a network that others trained.

Shapes: B pictures, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from build_engines.modalities.graph_encoder import GraphEncoder
from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.modalities.vision.efficientnet_lite import load_efficientnet_lite0
from build_engines.modalities.vision.recipe import VisionRecipe
from build_engines.modalities.vision.shelf import NETWORKS, SHELF
from build_engines.pretrained.network_file import Plan, load_network
from build_engines.pretrained.shelf import Origin, origin_of
from edge_runtime.errors import UserError
from edge_runtime.specs import CameraStream


class PretrainedVision(PretrainedEncoder):
    """uint8 [B, H, W, 3] BGR to features [B, d]: EfficientNet-Lite0 or its first blocks, and a projection of its last
    maps or of their mean."""

    _unfrozen: nn.Sequential

    def __init__(self, recipe: VisionRecipe, origin: Origin, height: int, width: int, features: int) -> None:
        super().__init__(origin, recipe.views, recipe.unfreeze_rate)
        network = load_efficientnet_lite0(origin.weights)
        parts = list(network.parts)
        if recipe.depth > len(parts):
            raise UserError(f"model.vision.depth is {recipe.depth}; the network has {len(parts)} blocks")
        parts = parts[: recipe.depth or len(parts)]
        if recipe.unfreeze > len(parts):
            used = "uses" if recipe.depth else "has"
            raise UserError(f"model.vision.unfreeze is {recipe.unfreeze}; the network {used} {len(parts)} blocks")
        first = next(network.parameters())
        with torch.no_grad():  # the device's pictures are BGR: the first convolution reads them as they are
            first.copy_(first.flip(1))
        last = len(parts) - recipe.unfreeze
        self._frozen, self._unfrozen = nn.Sequential(*parts[:last]), nn.Sequential(*parts[last:])
        self._freeze()
        self._grid = recipe.pool == "grid"
        with torch.no_grad():
            hidden = self._pooled(network.parts[: len(parts)](torch.zeros(1, 3, height, width))).shape[1]
        self.head = FeatureHead(hidden, features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def _pooled(self, maps: Tensor) -> Tensor:
        """[B, c, h, w] to [B, c] or, of a grid, [B, c * h * w]."""
        return maps.flatten(1) if self._grid else maps.mean((2, 3))

    def kept(self, *inputs: Tensor) -> Tensor:
        """What the head reads [B, hidden], or the maps that the unfrozen blocks read."""
        (image,) = inputs
        with torch.no_grad():
            # Cast before transposing: TensorRT has uint8 at its inputs only.
            maps: Tensor = self._frozen((image.float().permute(0, 3, 1, 2) - 127.0) * (1 / 128))
            return maps if len(self._unfrozen) else self._pooled(maps)

    def finish(self, kept: Tensor, *inputs: Tensor) -> Encoded:
        hidden = self._pooled(self._unfrozen(kept)) if len(self._unfrozen) else kept
        encoded: Encoded = self.head(hidden)
        return encoded


def pretrained_vision(recipe: VisionRecipe, height: int, width: int, features: int) -> PretrainedVision:
    """The encoder that the recipe's keys ask for, for pictures of that size. Raises UserError where its weights are not
    there."""
    return PretrainedVision(recipe, origin_of(recipe, SHELF, NETWORKS), height, width, features)


def graph_vision(recipe: VisionRecipe, spec: CameraStream, features: int) -> GraphEncoder:
    """The encoder around the network in the recipe's file, for pictures as `spec` has them. Raises UserError."""
    origin = origin_of(recipe, SHELF, NETWORKS)
    network = load_network(origin.weights, origin.sha256, Plan(recipe.output, recipe.pool, recipe.pixels), spec)
    return GraphEncoder(
        origin, network, recipe, "model.vision", features, recipe.aux, recipe.aux_in_features, recipe.dropout
    )
