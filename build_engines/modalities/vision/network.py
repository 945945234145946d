"""The encoder of pictures in torch.

Shapes: B pictures, d features.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu

from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.vision.recipe import VisionRecipe


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
