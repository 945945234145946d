"""A tiny multimodal task in the world's layout: the label is how many of three modalities say yes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from build_engines.data.datasets import Prepared
from build_engines.data.world import prepare
from build_engines.recipe import FusionRecipe, Recipe, load_recipe
from tests.cuda.double import pytest_configure, pytest_pyfunc_call, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_pyfunc_call", "pytest_runtest_setup"]

RECIPE = """
name = "tiny"
version = "1.0.0"
layout = "world"
labels = ["none", "one", "two", "three"]
trigger = "camera.front"
seed = 3

[streams."camera.front"]
kind = "camera"
width = 16
height = 16
rate_hz = 10.0
max_age_ms = 300.0
required = true

[streams.text]
kind = "text"
max_tokens = 8
max_age_ms = 5000.0

[streams.sensors]
kind = "sensors"
rate_hz = 10.0
max_age_ms = 500.0
window = 2
channels = [
  { name = "a_v", unit = "V", minimum = -10.0, maximum = 10.0 },
  { name = "b_v", unit = "V", minimum = -10.0, maximum = 10.0 },
]

[streams.position]
kind = "sensors"
rate_hz = 10.0
max_age_ms = 500.0
channels = [{ name = "x_m", unit = "m", minimum = -1.0, maximum = 1.0 }]

[decision]
safe_label = "none"

[model]
features = 16
[model.vision]
streams = ["camera.front"]
widths = [4, 8]
dropout = 0.0
[model.text]
stream = "text"
width = 16
dropout = 0.0
token_dropout = 0.0
[model.sensors]
stream = "sensors"
width = 16
dropout = 0.0
[model.fusion]
kind = "concat"
width = 32
heads = 2
dropout = 0.0

[tokenizer]
vocabulary = 300

[calibrate]
samples = 64

[quantise]
stages = ["vision", "text"]

[gate]
min_gain = 0.01
class_drop = 0.1

[train]
epochs = 20
batch = 32
learning_rate = 1e-2
label_smoothing = 0.0
average = 0.9
modality_dropout = { "camera.front" = 0.15, text = 0.15, sensors = 0.15 }
"""
LABELS = ("none", "one", "two", "three")
YES, NO = ("yes please", "do it", "yes indeed"), ("no thanks", "leave it", "not now")
EPISODE_FRAMES = 8


def write_split(folder: Path, episodes: int, seed: int) -> None:
    """A recording: every 0.1 s a reading and a frame, a new sentence with each."""
    rng = np.random.default_rng(seed)
    (folder / "frames").mkdir(parents=True)
    lines = []
    for index in range(episodes * EPISODE_FRAMES):
        episode, step = divmod(index, EPISODE_FRAMES)
        picture, sentence, reading = (rng.random(3) < 0.5).tolist()
        image = rng.integers(0, 90, (16, 16, 3)).astype(np.uint8) + np.uint8(120 * picture)
        name = f"frames/{index:04d}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        words = (YES if sentence else NO)[int(rng.integers(3))]
        values = {"a_v": float(rng.normal()), "b_v": 3.0 * reading - 1.5 + float(rng.normal() * 0.3)}
        label, without = LABELS[picture + sentence + reading], LABELS[picture + reading]
        head = {"episode": episode, "t_s": 0.1 * step}
        lines += [
            head | {"stream": "sensors", "values": values},
            head | {"stream": "position", "values": {"x_m": 0.0}},
            head | {"stream": "text", "text": words, "lang": "en"},
            head | {"stream": "camera.front", "frame": name, "label": label, "label_without_text": without},
        ]
    (folder / "messages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text("{}")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with both splits."""
    data = tmp_path_factory.mktemp("tiny-world")
    write_split(data / "train", 48, 1)
    write_split(data / "val", 16, 2)
    return data


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task's recipe."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def recipe(recipe_file: Path) -> Recipe:
    """The same, read."""
    return load_recipe(recipe_file)[0]


@pytest.fixture(scope="session")
def prepared(recipe: Recipe, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The tiny task's arrays."""
    return prepare(recipe, world, tmp_path_factory.mktemp("cache"))


def with_fusion(recipe: Recipe, kind: str) -> Recipe:
    """`recipe` with another way of fusing."""
    fusion = msgspec.convert({"kind": kind, "width": 32, "heads": 2, "dropout": 0.0}, FusionRecipe)
    return msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, fusion=fusion))
