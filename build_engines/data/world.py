"""Recordings of the built-in world: message streams per episode, some camera frames with the right decision.

`messages.jsonl` holds one message a line, in time order within an episode; a camera line with a `label` is a labelled
moment: the decision that is right given everything up to it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from build_engines.data.arrays import Arrays
from build_engines.data.columns import joined
from build_engines.data.datasets import Ints, Prepared, digest_of, read_file
from build_engines.data.paired import PairedSource, build_arrays
from build_engines.data.samples import with_mined
from build_engines.data.tokenizer import tokenizer_of
from build_engines.modalities.sensors import fit_channels
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe, WorldRecipe
from build_engines.rows import read_json_lines
from calibration.moments import LabelledSet, Later, RawMessage
from edge_runtime.errors import UserError
from edge_runtime.messages import Words
from edge_runtime.streams import SensorStream, StreamSpec, TextStream, streams_of

MARKER = "messages.jsonl"
LEARNER_SEEDS = 500_000
"""The seeds of the learner's drives start this much later than the expert's."""
SUMMARY = "summary.json"
"""Written when a split is complete."""
START_NS = 1_000_000_000


class Line(Struct, frozen=True):
    """One line of `messages.jsonl`; which of the optional fields are there depends on the stream."""

    episode: int
    t_s: float
    stream: str
    values: dict[str, float | None] | None = None
    text: str | None = None
    lang: str | None = None
    frame: str | None = None
    """JPEG file, relative to the split's folder."""
    label: str | None = None
    label_without_text: str | None = None
    condition: str = ""


def _lines(folder: Path) -> Iterator[Line]:
    for row in read_json_lines(folder / MARKER):
        try:
            yield msgspec.convert(dict(row), Line)
        except msgspec.ValidationError as error:
            raise row.wrong(f"{error}; the world's own recorder writes such rows") from None


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every labelled frame, with the messages since the one before; an episode is a group."""
    text = next(iter(streams_of(streams, TextStream)), "")
    folder = data / split
    waiting: list[RawMessage] = []
    episode: int | None = None
    for line in _lines(folder):
        if line.episode != episode:
            episode, waiting = line.episode, []
        at_ns = START_NS + round(line.t_s * 1e9)
        waiting.append(RawMessage(line.stream, at_ns, _content(folder, line)))
        if line.label is None or line.frame is None:
            continue
        without = {text: line.label_without_text} if text and line.label_without_text else {}
        name = f"{split}/{line.frame}"
        yield LabelledSet(name, f"episode {episode}", at_ns, line.label, tuple(waiting), without, line.condition)
        waiting = []


def _content(folder: Path, line: Line) -> object:
    if line.frame is not None:
        return Later(folder / line.frame, read_file)
    if line.values is not None:
        return {name: value for name, value in line.values.items() if value is not None}
    return Words(line.text or "", line.lang)


def record(recipe: Recipe, data: Path) -> None:
    """Record the splits that `data` lacks, with the world's own command (whose splits never share a drive)."""
    plan = recipe.world
    for split, episodes in (("train", plan.train_episodes), ("val", plan.val_episodes)):
        if (data / split / SUMMARY).is_file():
            continue
        _record(data, split, episodes, plan, recipe.seed)


def record_learner(recipe: Recipe, bundle: Path, out: Path) -> None:
    """Let `bundle` drive while the expert labels, into a fresh `out`/train, on drives of its own."""
    shutil.rmtree(out, ignore_errors=True)
    plan = recipe.world
    _record(out, "train", plan.learner_episodes, plan, recipe.seed + LEARNER_SEEDS, "--learner", str(bundle))


def _record(out: Path, split: str, episodes: int, plan: WorldRecipe, seed: int, *more: str) -> None:
    command = [sys.executable, "-m", "edge_runtime.world", "record", "--out", str(out), "--split", split]
    command += ["--episodes", str(episodes), "--seconds", str(plan.seconds), "--seed", str(seed)]
    command += ["--camera-hz", str(plan.camera_hz), *more]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"data {out}: recording the world failed; the command was: {' '.join(command[1:])}")


def prepare(recipe: Recipe, data: Path, work: Path, learner: Path | None = None) -> Prepared:
    """Rows of both splits, recorded first where absent; kept in `work`.

    `learner` is a folder of `record_learner`, added to what is trained on.
    """
    record(recipe, data)
    streams = dict(recipe.streams)
    train_lines = list(_lines(data / "train"))
    for name, spec in streams_of(recipe.streams, SensorStream).items():
        rows = [line.values for line in train_lines if line.stream == name and line.values is not None]
        streams[name] = fit_channels(spec, ({k: v for k, v in row.items() if v is not None} for row in rows))
    tokenizer = None
    if recipe.model.text is not None:
        # Each sentence counts once: how often it was said in the world says nothing about how it is best cut.
        sentences = sorted({line.text for line in train_lines if line.text})
        tokenizer = tokenizer_of(recipe, sentences)
    digest = digest_of(data / "train")
    train = build_arrays(recipe, streams, partial(read, data, "train", streams), data, "train", work)
    if learner is not None:
        own = partial(read, learner, "train", streams)
        more = build_arrays(recipe, streams, own, learner, "train", work, "learner")
        train = {name: joined(array, more[name]) for name, array in train.items()}
        digest = hashlib.sha256(f"{digest} {digest_of(learner / 'train')}".encode()).hexdigest()
    val = build_arrays(recipe, streams, partial(read, data, "val", streams), data, "val", work)
    source = PairedSource(recipe, tokenizer, train, _scene(train))
    plain = PairedSource(recipe, tokenizer, val, _scene(val), training=False)
    return with_mined(recipe, Prepared(streams, tokenizer, source, plain.in_order(), digest), work)


def _scene(arrays: Arrays) -> dict[str, Ints]:
    """The auxiliary label: what is right without the sentence."""
    return {"scene": np.asarray(arrays["labels"])[:, 1].astype(np.int64)}
