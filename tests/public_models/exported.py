"""Models as their authors export them, from PyTorch: by both exporters, at several opsets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def export(
    model: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], target: Path, opset: int,
    new: bool = False, open_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Path:  # fmt: skip
    """`target`, by torch's newer or older exporter; `open_axes`: of inputs that are left open."""
    settings: dict[str, Any] = {
        "dynamo": new,
        "opset_version": opset,
        "input_names": [*inputs],
        "output_names": [*outputs],
    }
    if new:
        axes = {} if open_axes is None else {
            "dynamic_shapes": tuple(
                {axis: torch.export.Dim(name) for axis, name in open_axes.get(one, {}).items()} or None
                for one in inputs
            )
        }  # fmt: skip
        settings |= axes | {"verbose": False, "external_data": False}
    elif open_axes is not None:
        settings["dynamic_axes"] = {name: dict(axes) for name, axes in open_axes.items()}
    torch.onnx.export(model.eval(), tuple(inputs.values()), str(target), **settings)
    return target


def _seeded(model: type[nn.Module], *arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    made = model(*arguments)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if it had been trained
            module.running_mean.normal_(0, 0.2)  # type: ignore[operator,union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[operator,union-attr]
    return made


class _Inverted(nn.Module):
    """An inverted residual (Sandler et al. 2018, arXiv:1801.04381) with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        inner = inputs * 4
        self.skips = stride == 1 and inputs == outputs
        self.up = nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), activation())
        self.deep = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), activation()
        )
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, inner // 4, 1), nn.ReLU(), nn.Conv2d(inner // 4, inner, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip
        self.down = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.deep(self.up(x))
        y: Tensor = self.down(inner * self.weigh(inner))
        return x + y if self.skips else y


class MobileNet(nn.Module):
    """MobileNetV3 in small: [B, 3, H, W] to five logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        shape = ((16, 16, 1, nn.ReLU6), (16, 24, 2, nn.ReLU6), (24, 24, 1, nn.Hardswish), (24, 40, 2, nn.Hardswish))
        self.blocks = nn.Sequential(*(_Inverted(*row) for row in shape))
        self.head = nn.Sequential(nn.Linear(40, 64), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(64, 5))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(
            torch.flatten(nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(image)), 1), 1)
        )
        return logits


def mobile_net(target: Path, opset: int, new: bool) -> Path:
    picture = {"image": torch.rand(1, 3, 96, 128)}
    return export(_seeded(MobileNet), picture, ("logits",), target, opset, new, {"image": {0: "batch"}})


class TwoPictures(nn.Module):
    """Two pictures through one network: do they show the same?"""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(48, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.net(left), self.net(right)
        return torch.softmax(self.head(torch.cat([a, b, (a - b).abs()], 1)), 1)


def two_pictures(target: Path) -> Path:
    inputs = {"left": torch.rand(1, 3, 64, 96), "right": torch.rand(1, 3, 64, 96)}
    axes = {name: {0: "n"} for name in (*inputs, "same")}
    return export(_seeded(TwoPictures), inputs, ("same",), target, 17, open_axes=axes)


class PictureAndVector(nn.Module):
    """A picture, and four readings of a vehicle [B, 4] in their own units; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 12, 5, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.feel = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 16), nn.SiLU())
        self.act, self.value = nn.Linear(64, 3), nn.Linear(64, 1)

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.see(frame), self.feel(state)], 1)
        return self.value(both), self.act(both)


def picture_and_vector(target: Path) -> Path:
    model = _seeded(PictureAndVector)
    model.feel[0].running_mean.copy_(torch.tensor([15.0, 1200.0, 0.0, 85.0]))  # type: ignore[index,union-attr,operator]
    model.feel[0].running_var.copy_(torch.tensor([60.0, 9e4, 0.1, 90.0]))  # type: ignore[index,union-attr,operator]
    inputs = {"frame": torch.rand(2, 3, 72, 96), "state": torch.rand(2, 4)}
    axes = {name: {0: "n"} for name in inputs}
    return export(model, inputs, ("value", "act"), target, 20, new=True, open_axes=axes)


class Words(nn.Module):
    """A bidirectional LSTM over int64 pieces [B, T] with an embedding, as tutorials write it."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(pieces, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


def words(target: Path, pieces: int) -> Path:
    tokens = torch.randint(0, pieces, (1, 12))
    return export(_seeded(Words, pieces), {"tokens": tokens}, ("logits",), target, 14)


class Prototypes(nn.Module):
    """A sentence encoder, and the sentence that stands for each label: scaled cosines as logits (as zero-shot
    classifiers have them, Radford et al. 2021, arXiv:2103.00020)."""

    def __init__(self, encoder: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("prototypes", nn.functional.normalize(prototypes))

    def forward(self, *inputs: Tensor) -> Tensor:
        return 20.0 * nn.functional.normalize(self.encoder(*inputs)) @ self.prototypes.T  # type: ignore[operator]


class Pooled(nn.Module):
    """A BERT's hidden values, averaged over the tokens that are there, with int64 tensors as transformers has them."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.to(torch.float32)
        hidden: Tensor = self.bert(input_ids, mask)
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
