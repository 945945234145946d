"""A small real detector: pictures with balls and boxes in known places, and a net that learns them in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTH, HEIGHT, STRIDE = 96, 64, 8
LABELS = ("ball", "box")
COLOURS = ((60, 60, 230), (60, 220, 60))
Thing = tuple[int, int, int, int, int]
"""Number of its label; left, top, right, bottom in pixels."""


def draw(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Thing]]:
    """A picture [HEIGHT, WIDTH, 3] BGR with up to three things that do not cover each other, and where they are."""
    image = rng.integers(0, 70, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    things: list[Thing] = []
    for _ in range(int(rng.integers(0, 4))):
        label, half = int(rng.integers(2)), int(rng.integers(6, 11))
        x, y = int(rng.integers(half, WIDTH - half)), int(rng.integers(half, HEIGHT - half))
        box = (x - half, y - half, x + half, y + half)
        if any(box[0] < o[3] and box[2] > o[1] and box[1] < o[4] and box[3] > o[2] for o in things):
            continue
        if label == 0:
            cv2.circle(image, (x, y), half, COLOURS[0], -1)
        else:
            cv2.rectangle(image, (x - half, y - half), (x + half, y + half), COLOURS[1], -1)
        things.append((label, box[0], box[1], box[2] + 1, box[3] + 1))
    return image, things


class Detector(nn.Module):
    """A cell every STRIDE pixels, which gives distances to four sides and a score for each label; said as YOLO says it:
    [1, 4 + labels, N], middle, width and height in pixels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, step in ((3, 12, 2), (12, 24, 2), (24, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inside, outside, 3, step, 1), nn.BatchNorm2d(outside), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.scores = nn.Conv2d(32, len(LABELS), 1)
        self.sides = nn.Conv2d(32, 4, 1)
        y, x = np.mgrid[0 : HEIGHT // STRIDE, 0 : WIDTH // STRIDE]
        middles = (np.stack([x, y]).reshape(1, 2, -1) + 0.5) * STRIDE
        self.register_buffer("middles", torch.tensor(middles, dtype=torch.float32))

    def raw(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, labels, N] and distances [B, 4, N] in pixels."""
        features = self.body(pictures)
        return self.scores(features).flatten(2), self.sides(features).flatten(2).relu() * STRIDE

    def forward(self, pictures: Tensor) -> Tensor:
        logits, sides = self.raw(pictures)
        low, high = self.middles - sides[:, :2], self.middles + sides[:, 2:]  # type: ignore[operator]
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], dim=1)


def as_input(images: list[NDArray[np.uint8]]) -> Tensor:
    """RGB, 0 to 1, planes first."""
    return torch.from_numpy(np.stack(images)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255)


def train(steps: int = 120) -> Detector:
    """Learns every cell whose middle lies in the inner half of a thing."""
    torch.manual_seed(0)
    rng, net = np.random.default_rng(1), Detector()
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, steps)
    cells = net.middles[0].numpy()  # type: ignore[index, operator]
    for _ in range(steps):
        drawn = [draw(rng) for _ in range(16)]
        truth = np.zeros((16, len(LABELS), cells.shape[1]), np.float32)
        sides = np.zeros((16, 4, cells.shape[1]), np.float32)
        for row, (_, things) in enumerate(drawn):
            for label, left, top, right, bottom in things:
                near = np.abs(cells[0] - (left + right) / 2) < (right - left) / 4 + 2
                near &= np.abs(cells[1] - (top + bottom) / 2) < (bottom - top) / 4 + 2
                truth[row, label, near] = 1
                sides[row][:, near] = np.stack([cells[0] - left, cells[1] - top, right - cells[0], bottom - cells[1]])[
                    :, near
                ]
        logits, distances = net.raw(as_input([image for image, _ in drawn]))
        wanted, places = torch.from_numpy(truth), torch.from_numpy(sides)
        inside = wanted.amax(1, keepdim=True)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / inside.sum()
        loss = loss + 0.2 * ((distances - places).abs() * inside).sum() / inside.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def export(net: nn.Module, file: Path) -> None:
    """By PyTorch's older exporter: no extra package is needed."""
    torch.onnx.export(
        net, (torch.zeros(1, 3, HEIGHT, WIDTH),), str(file), input_names=["images"], output_names=["output0"],
        opset_version=17, dynamo=False,
    )  # fmt: skip


def write_coco(data: Path, split: str, count: int, seed: int, ending: str = ".png") -> None:
    """`count` pictures as COCO's JSON beside them."""
    rng, folder = np.random.default_rng(seed), data / split
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        image, things = draw(rng)
        name = f"{number:03d}{ending}"
        cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 98] if ending == ".jpg" else [])
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label, left, top, right, bottom in things:
            box = [left, top, right - left, bottom - top]
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 5, "bbox": box, "iscrowd": 0}
            annotations.append(row | {"area": box[2] * box[3]})
    categories = [{"id": number + 5, "name": name} for number, name in enumerate(LABELS)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(document))


RECIPE = """
name = "shapes"
version = "1.0.0"
layout = "detection"
labels = ["ball", "box"]
trigger = "camera.front"
[streams."camera.front"]
kind = "camera"
width = 96
height = 64
rate_hz = 30.0
max_age_ms = 20000.0
required = true
fit = "letterbox"
[decision]
safe_label = "undecided"
threshold = 0.5
[onnx]
output = "stage:net:detections"
head = "detection"
[onnx.detection]
form = "yolo"
scores = ["output0"]
max_overlap = 0.4
[[onnx.stages]]
name = "net"
file = "net.onnx"
[onnx.stages.inputs.images]
source = "stream:camera.front:image"
pixels = { normalisation = "unit" }
"""
