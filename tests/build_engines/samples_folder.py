"""A made-up folder of the samples layout: the label follows from a picture's bright side, a reading and a word."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

RECIPE = """
name = "ward"
version = "1.0.0"
layout = "samples"
head = "sigmoid"
labels = ["ill"]
trigger = "camera.front"
seed = 3

[dataset]
label = "finding.code"
group = ["site", "patient"]
condition = "view"
values = { 0 = "none", 1 = "ill" }
categories = { sex = { M = 1.0, F = 0.0 } }

[streams."camera.front"]
kind = "camera"
width = 16
height = 12
rate_hz = 1.0
max_age_ms = 1000.0

[streams.text]
kind = "text"
max_tokens = 8
max_age_ms = 1000.0

[streams.sensors]
kind = "sensors"
rate_hz = 1.0
max_age_ms = 1000.0
channels = [
  { name = "spo2_percent", unit = "%", minimum = 0.0, maximum = 100.0 },
  { name = "sex", unit = "1", minimum = 0.0, maximum = 1.0 },
]

[decision]
safe_label = "undecided"

[model]
features = 8
[model.vision]
streams = ["camera.front"]
widths = [4, 8]
pool = "grid"
dropout = 0.0
[model.text]
stream = "text"
width = 8
dropout = 0.0
token_dropout = 0.0
[model.sensors]
stream = "sensors"
width = 8
dropout = 0.0
[model.fusion]
kind = "concat"
width = 16
dropout = 0.0

[tokenizer]
vocabulary = 300

# Rows without a picture differ by a reading alone.
[calibrate]
samples = 32
near_leak = 0.9

[quantise]
stages = ["vision"]
methods = ["minmax"]

[compile]
targets = []

[gate]
min_gain = 0.01
class_drop = 0.2
macro_f1_ratio = 0.9

[choose]
folds = 0

[train]
epochs = 25
batch = 16
learning_rate = 2e-2
label_smoothing = 0.0
average = 0.9
modality_dropout = { "camera.front" = 0.1, text = 0.1, sensors = 0.1 }
"""


def picture(rng: np.random.Generator, bright: bool, width: int = 32) -> bytes:
    """A JPEG, 24 pixels high, whose left half is brighter where `bright`, else its right half."""
    image = rng.integers(0, 60, (24, width, 3)).astype(np.uint8)
    half = slice(0, width // 2) if bright else slice(width // 2, width)
    image[:, half] += 150
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def row_of(index: int, split: str, ill: bool) -> dict[str, object]:
    """A complete row whose three modalities all tell."""
    return {
        "id": f"{split}-{index:03d}",
        "site": split,
        "patient": index // 2,
        "view": "PA" if index % 3 else "AP",
        "image": f"{split}/images/{index:03d}.jpg",
        "sensors": {"spo2_percent": 80.0 if ill else 98.0, "sex": "MF"[index % 2], "shoe_size": 43},
        "text": "cough and fever" if ill else "routine check",
        "finding": {"code": int(ill)},
    }


def write_samples(data: Path, split: str, count: int, seed: int) -> list[dict[str, object]]:
    """`count` rows in `data`/`split`, about a third ill; each lacks a modality now and then."""
    rng = np.random.default_rng(seed)
    (data / split / "images").mkdir(parents=True)
    rows = []
    for index in range(count):
        ill = bool(rng.random() < 0.35)
        row = row_of(index, split, ill)
        row["sensors"] = {"spo2_percent": round(float((80 if ill else 95) + rng.normal()), 3), "sex": "MF"[index % 2]}
        (data / str(row["image"])).write_bytes(picture(rng, ill))
        if index % 5 == 1:
            row["image"] = None
        if index % 5 == 2:
            row["sensors"] = {"spo2_percent": None, "sex": None}
        if index % 5 == 3:
            row["text"] = None
        rows.append(row)
    write_rows(data, split, rows)
    return rows


def write_rows(data: Path, split: str, rows: list[dict[str, object]]) -> None:
    """The rows as the split's samples.jsonl."""
    (data / split).mkdir(parents=True, exist_ok=True)
    (data / split / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
