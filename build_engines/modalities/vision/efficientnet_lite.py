"""EfficientNet-Lite0 in torch, for weights that others trained.

Shapes: B pictures, H x W pixels, d hidden values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from build_engines.pretrained.tensors import fill, read_tensors

WIDTH = 1280
"""Hidden values after the last block: d."""
_EPSILON = 1e-3


class _Blocks(NamedTuple):
    """Blocks of one size in a row; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    width: int


STAGES = (
    _Blocks(1, 3, 1, 1, 16),
    _Blocks(2, 3, 2, 6, 24),
    _Blocks(2, 5, 2, 6, 40),
    _Blocks(3, 3, 2, 6, 80),
    _Blocks(3, 5, 1, 6, 112),
    _Blocks(4, 5, 2, 6, 192),
    _Blocks(1, 3, 1, 6, 320),
)
"""EfficientNet-B0's (Tan and Le 2019, arXiv:1905.11946, table 1); Lite leaves out squeeze-and-excitation and has ReLU6
for swish, so that INT8 loses little
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite)."""


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads `SAME`: to ceil(size / stride), the odd pixel behind."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        sizes = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in map(int, x.shape[2:])]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in sizes)
        if torch.onnx.is_in_onnx_export():
            exported: Tensor = _OneNode.apply(  # type: ignore[no-untyped-call]
                x, self.weight, stride, (top, left, bottom, right), self.groups
            )
            return exported
        convolved: Tensor = super().forward(pad(x, (left, right, top, bottom)) if any(sizes) else x)
        return convolved


class _OneNode(torch.autograd.Function):
    """The same in a graph: one node, whose pads need not be alike on all sides as torch's must."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pads: tuple[int, ...], groups: int) -> Tensor:
        top, left, bottom, right = pads
        return conv2d(pad(x, (left, right, top, bottom)), weight, None, stride, groups=groups)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, stride: int, pads: tuple[int, ...], groups: int) -> Any:
        kernel = weight.type().sizes()[2:]
        return g.op(
            "Conv", x, weight, kernel_shape_i=kernel, strides_i=[stride, stride], pads_i=pads, dilations_i=[1, 1],
            group_i=groups,
        )  # fmt: skip


def _normed(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, _EPSILON, momentum=0.01),
    ]


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow, and a skip where the size stays (Sandler et al. 2018,
    arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        widen = [*_normed(inputs, inner), nn.ReLU6()] if expand > 1 else []
        self.layers = nn.Sequential(
            *widen, *_normed(inner, inner, kernel, stride, inner), nn.ReLU6(), *_normed(inner, outputs)
        )
        self.skip = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.layers(x)
        return y + x if self.skip else y


class EfficientNetLite0(nn.Module):
    """float32 [B, 3, H, W] RGB, (pixel - 127) / 128, to the mean of the last maps [B, 1280].

    `parts` are what may be frozen one after the other: the first convolution, 16 blocks, the last convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Sequential(*_normed(3, 32, 3, 2), nn.ReLU6())]
        inputs = 32
        for stage in STAGES:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                parts.append(InvertedResidual(inputs, stage.width, stage.kernel, stride, stage.expand))
                inputs = stage.width
        parts.append(nn.Sequential(*_normed(inputs, WIDTH), nn.ReLU6()))
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.parts(x)
        return maps.mean((2, 3))


def load_efficientnet_lite0(path: Path) -> EfficientNetLite0:
    """The network with the weights that the package `efficientnet-lite-pytorch` saves, in eval mode; the classifier at
    their end is left out. Raises UserError where they are another network's."""
    network = EfficientNetLite0()
    fill(network, read_tensors(path), _their_names(network), path)
    return network.eval()


def _their_names(network: EfficientNetLite0) -> dict[str, str]:
    """Parameter to what `efficientnet-lite-pytorch` calls it."""
    modules = {"parts.0.0": "_conv_stem", "parts.0.1": "_bn0"}
    last = len(network.parts) - 1
    for place in range(1, last):
        block = network.parts[place]
        assert isinstance(block, InvertedResidual)
        widened = len(block.layers) > 5
        theirs = ["_expand_conv", "_bn0", ""] * widened + ["_depthwise_conv", "_bn1", "", "_project_conv", "_bn2"]
        modules |= {f"parts.{place}.layers.{i}": f"_blocks.{place - 1}.{name}" for i, name in enumerate(theirs) if name}
    modules |= {f"parts.{last}.0": "_conv_head", f"parts.{last}.1": "_bn1"}
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{own}.{kind}": f"{theirs}.{kind}" for own, theirs in modules.items() for kind in kinds}
