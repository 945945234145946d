"""A small file in CoNLL's form, by its path alone, through the whole line: train to signed bundle, report, live tags."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest

from build_engines.baselines_ner import classical_tagger
from build_engines.cli import main
from build_engines.ner_data import sentences
from edge_runtime import schema
from edge_runtime.bundle import open_bundle
from edge_runtime.config import convert_strict
from edge_runtime.pipeline import Pipeline

RECIPE = """
name = "small-ner"
version = "1.0.0"
layout = "ner"
head = "tagging"
labels = []
trigger = "text"

[streams.text]
kind = "text"
max_tokens = 8
word_pieces = 6
max_age_ms = 5000.0

[decision]
safe_label = "O"
heartbeat_ms = 100.0

[model]
features = 16
[model.text]
stream = "text"
kind = "words"
width = 32
dropout = 0.0
token_dropout = 0.0
[model.fusion]
kind = "tagger"
width = 16
dropout = 0.0

[tokenizer]
vocabulary = 300
keep_case = true

[calibrate]
samples = 32

[quantise]
stages = ["text"]

[gate]
min_gain = 0.01
class_drop = 0.2

[compile]
targets = []

[train]
epochs = 10
batch = 16
learning_rate = 1e-2
average = 0.8
label_smoothing = 0.0
class_balance = 0.0
words = { swap = 0.3, respell = 0.2, case = 0.0 }
"""
FIRST = ("Anna", "Omar", "Lena", "Tomas", "Ines", "Viktor")
LAST = ("Berg", "Castillo", "Novak", "Okafor", "Lindt")
PLACES = ("Oslo", "Lisbon", "Nairobi", "Kyoto", "Quito")


def write_conll(path: Path, count: int) -> None:
    """Sentences in CoNLL-2003's four columns and IOB1, as it was published."""
    rng = np.random.default_rng(5)
    lines = ["-DOCSTART- -X- O O", ""]
    for _ in range(count):
        person = [FIRST[rng.integers(6)], LAST[rng.integers(5)]][: rng.integers(1, 3)]
        place = PLACES[rng.integers(5)]
        moved = ["went", "flew", "drove"][rng.integers(3)]
        words = [*((word, "I-PER") for word in person), (moved, "O"), ("to", "O"), (place, "I-LOC")]
        words += [(["today", "again", "."][rng.integers(3)], "O")]
        lines += [f"{word} NN I-NP {tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["build-engines", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ner")
    (folder / "recipe.toml").write_text(RECIPE)
    write_conll(folder / "news.conll", 250)
    with pytest.MonkeyPatch.context() as patch:
        places = ("--data", folder / "news.conll", "--out", folder / "out", "--work", folder / "work")
        assert call(patch, "run", folder / "recipe.toml", *places) == 0
    return folder
