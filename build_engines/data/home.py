"""The home-control layout: gesture pictures, room sensors and sentences, joined by a stated rule.

Each part is labelled on its own (gesture, occupants, action) and `label` follows from the three, so training may pair
the training split's parts anew in every step instead of keeping the file's own random pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.data.datasets import (
    Batch,
    Fold,
    Inputs,
    Ints,
    Prepared,
    digest_of,
    in_step,
    read_file,
)
from build_engines.data.folds import grouped
from build_engines.data.opposites import opposite_of
from build_engines.data.tokenizer import sentence_encoder, tokenizer_of
from build_engines.modalities.sensors import fit_channels
from build_engines.modalities.text import tokenizer_kind
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from build_engines.rows import Row, read_json_lines
from calibration.moments import LabelledSet, Later, RawMessage
from edge_runtime.capture.tables import is_missing, read_rows
from edge_runtime.errors import UserError
from edge_runtime.messages import Sample, Words
from edge_runtime.pictures import PictureError
from edge_runtime.preprocess import image_tensor, text_tensors, window_tensors
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream, streams_of
from edge_runtime.tokenizer import Tokenizer, load_tokenizer

MARKER = "samples.jsonl"
AT_NS = 1_000_000_000
"""All three messages of a sample carry this capture time: they are one moment."""
CANCEL, HOLD = "cancel", "hold"
CANCEL_GESTURE = 0
PAIRINGS = 2
"""Pairs that every sentence is in, as in the data's own."""
NEEDS_PEOPLE = frozenset({"light_on", "generic_on", "fan_on", "media", "climate_set"})
"""Actions that an empty room puts on hold (the data's README)."""


def join_label(action: str, gesture: int | None, occupants: int) -> str:
    """The data's rule: the cancel gesture wins; else an empty room holds what needs people; else the action.

    `gesture` None: no hand is seen.
    """
    if gesture == CANCEL_GESTURE:
        return CANCEL
    if occupants == 0 and action in NEEDS_PEOPLE:
        return HOLD
    return action


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every sample of `split` as a group of its own: one frame, one sensor reading, one sentence, at one time."""
    camera, text, sensors = stream_names(streams)
    for row in read_json_lines(data / split / MARKER):
        messages = (
            RawMessage(camera, AT_NS, Later(data / str(row["image"]), read_file)),
            RawMessage(sensors, AT_NS, _values(row)),
            RawMessage(text, AT_NS, Words(row.text("text"), row.text("lang") or None)),
        )
        parts = row.get("labels")
        # Nothing is known to be right without the sentence or without the room.
        without = {camera: join_label(parts["action"], None, parts["occupants"])} if parts else {}
        name = str(row["id"])
        yield LabelledSet(name, name, AT_NS, str(row["label"]), messages, without)


def _values(row: Row) -> dict[str, float]:
    """What the room's sensors said."""
    return {
        name: row.number(f"sensors.{name}", value) for name, value in row.readings().items() if not is_missing(value)
    }


def stream_names(streams: Mapping[str, StreamSpec]) -> tuple[str, str, str]:
    """The names of the camera, text and sensor streams: the first of each kind. Raises UserError if one lacks."""
    names = []
    for spec in (CameraStream, TextStream, SensorStream):
        matching = streams_of(streams, spec)
        if not matching:
            raise UserError(f"the home layout needs a {spec.__name__}; the bundle has only {', '.join(streams)}")
        names.append(next(iter(matching)))
    return names[0], names[1], names[2]


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """The training split's parts and the validation split's pairs as arrays."""
    del work  # small enough to need no cache
    camera, text, sensors = stream_names(recipe.streams)
    streams = dict(recipe.streams)
    rooms, occupants, hours = _read_rooms(data / "train" / "sensors_room.csv")
    streams[sensors] = fit_channels(streams_of(streams, SensorStream)[sensors], rooms)
    rows = list(read_json_lines(data / "train" / "voice.jsonl"))
    commands = [(str(row["text"]), str(row["action"])) for row in rows]
    model = tokenizer_of(recipe, [text for text, _ in commands])
    parts = _Parts(streams, (camera, text, sensors), load_tokenizer(tokenizer_kind(streams), model))
    pictures, digits, blocks = parts.gestures(data, "train")
    names = {name: index for index, name in enumerate(recipe.labels)}
    counts = np.zeros(len(names))
    for row in read_json_lines(data / "train" / MARKER):
        counts[names[row["label"]]] += 1
    groups = [str(row.get("group", row["text"])) for row in rows]
    training = _Training(
        recipe, parts, model, commands, groups, pictures, digits, blocks, *parts.rooms(rooms), occupants, hours, counts
    )
    every = (np.arange(len(commands)), np.arange(len(digits)), np.arange(len(occupants)))
    return Prepared(
        streams, model, training.source(*every), parts.pairs(data, "val", names), digest_of(data / "train"),
        folds=training.folds,
    )  # fmt: skip


@dataclass(frozen=True)
class _Training:
    """The training split's parts, each with what its members are not independent of."""

    recipe: Recipe
    parts: _Parts
    tokenizer: bytes
    commands: Sequence[tuple[str, str]]
    """Sentence and action."""
    groups: Sequence[str]
    """Of the sentences: a template, a block of test cases."""
    pictures: NDArray[np.uint8]
    digits: Ints
    blocks: Sequence[str]
    """Of the pictures: a person's, as far as is known."""
    windows: NDArray[np.float32]
    masks: NDArray[np.float32]
    occupants: Ints
    hours: Sequence[str]
    """Of the room's rows: most days have nobody in the room, so that whole days cannot be parted."""
    counts: NDArray[np.float64]
    """How often each label occurs in the data's own pairs."""

    def source(self, said: Ints, shown: Ints, stood: Ints) -> RepairedSource:
        """Of some sentences, pictures and rooms, by number."""
        commands = [self.commands[int(index)] for index in said]
        swapped = (opposite_of(text, action, self.recipe.opposites) for text, action in commands)
        voice = sorted({*commands, *(sentence for sentence in swapped if sentence is not None)})
        source = RepairedSource(
            self.recipe, self.tokenizer, voice, self._actions(), self.pictures[shown], self.digits[shown],
            self.windows[stood], self.masks[stood], self.occupants[stood],
        )  # fmt: skip
        source.counts = self.counts
        return source

    def _actions(self) -> tuple[str, ...]:
        return tuple(sorted({action for _, action in self.commands}))

    def folds(self, count: int, seed: int) -> list[Callable[[], Fold]]:
        """Sentences, pictures and rooms are each parted by their groups; the left-out ones are paired as the data's own
        pairs are. The channels' mean and deviation and the tokenizer stay those of them all."""
        parted = (
            grouped(np.array([action for _, action in self.commands]), self.groups, count, seed),
            grouped(self.digits, self.blocks, count, seed),
            grouped((self.occupants > 0) * 1, self.hours, count, seed),
        )
        rounds = zip(*parted, strict=False)
        return [
            partial(self._fold, [fit for fit, _ in part], [left for _, left in part], seed + place)
            for place, part in enumerate(rounds)
        ]

    def _fold(self, fit: Sequence[Ints], left: Sequence[Ints], seed: int) -> Fold:
        rng = np.random.default_rng(seed)
        said, shown, stood = left
        said = np.repeat(said, PAIRINGS)
        crowd, empty = stood[self.occupants[stood] > 0], stood[self.occupants[stood] == 0]
        shows = rng.choice(shown, len(said))
        crowded = rng.random(len(said)) < 0.5
        # A fold whose hours nobody, or always somebody, was there in has such rooms only.
        drawn = [rng.choice(rows if len(rows) else stood, len(said)) for rows in (crowd, empty)]
        stands = np.where(crowded, *drawn)
        names = {name: index for index, name in enumerate(self.recipe.labels)}
        table, actions = _joined_table(self._actions(), names), self._actions()
        spoken = np.array([actions.index(self.commands[int(index)][1]) for index in said])
        label = table[spoken, (self.digits[shows] != CANCEL_GESTURE) * 1, (self.occupants[stands] > 0) * 1]
        batches = [
            self.parts.batch(
                [self.commands[int(index)][0] for index in said[part]], self.pictures[shows[part]],
                (self.windows[stands[part]], self.masks[stands[part]]), label[part],
            )
            for part in (slice(start, start + 64) for start in range(0, len(said), 64))
        ]  # fmt: skip
        return Fold(self.source(*fit), batches, tuple(self.groups[int(index)] for index in said))


def _read_rooms(path: Path) -> tuple[list[dict[str, float]], Ints, list[str]]:
    """Room rows (a value that is not there is left out), the number of people in each, and its hour."""
    rooms: list[dict[str, float]] = []
    occupants: list[int] = []
    hours: list[str] = []
    try:
        for table_row in read_rows(path):
            row = Row(path, table_row.line, dict(table_row.cells))
            if table_row.problem:
                raise row.wrong(table_row.problem)
            occupants.append(int(row.number("occupants", row["occupants"])))
            hours.append(str(row["timestamp"])[: len("2018-01-10T00")])
            named = ((name, cell) for name, cell in row.items() if name.lower() not in ("timestamp", "occupants"))
            rooms.append({name: row.number(name, cell) for name, cell in named if not is_missing(cell)})
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror}); the data folder is incomplete") from None
    except ValueError as error:
        raise UserError(f"data {path}: {error}") from None
    return rooms, np.array(occupants), hours


class _Parts:
    """Turns the layout's files into tensors with the device's preprocessing."""

    def __init__(self, streams: Mapping[str, StreamSpec], names: tuple[str, str, str], tokenizer: Tokenizer) -> None:
        camera, text, self.sensors_name = names
        self.camera = streams_of(streams, CameraStream)[camera]
        self.text = streams_of(streams, TextStream)[text]
        self.sensors = streams_of(streams, SensorStream)[self.sensors_name]
        self.tokenizer = tokenizer

    def picture(self, path: Path) -> NDArray[np.uint8]:
        try:
            return image_tensor(self.camera, read_file(path))
        except PictureError as error:
            raise UserError(f"data {path}: is not a picture ({error.reason})") from None

    def gestures(self, data: Path, split: str) -> tuple[NDArray[np.uint8], Ints, list[str]]:
        """Pictures [N, 1, H, W, 3], the digit each shows, and its block (itself where the data names none)."""
        rows = list(read_json_lines(data / split / "gesture.jsonl"))
        pictures = np.stack([self.picture(data / row["image"]) for row in rows])
        return pictures, np.array([row["digit"] for row in rows]), [str(row.get("block", row["image"])) for row in rows]

    def rooms(self, rows: Sequence[Mapping[str, float]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Windows and masks, [N, T, C] each."""
        tensors = [window_tensors(self.sensors, (Sample(self.sensors_name, 0, AT_NS, row),)) for row in rows]
        windows = np.concatenate([item["window"] for item in tensors]).astype(np.float32)
        return windows, np.concatenate([item["mask"] for item in tensors]).astype(np.float32)

    def pairs(self, data: Path, split: str, names: Mapping[str, int]) -> list[Batch]:
        """The split's own pairs, 64 at a time."""
        rows = list(read_json_lines(data / split / MARKER))
        batches = []
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            batches.append(
                self.batch(
                    [str(row["text"]) for row in part], np.stack([self.picture(data / row["image"]) for row in part]),
                    self.rooms([_values(row) for row in part]), np.array([names[row["label"]] for row in part]),
                )
            )  # fmt: skip
        return batches

    def batch(
        self, sentences: Sequence[str], pictures: NDArray[np.uint8],
        rooms: tuple[NDArray[np.float32], NDArray[np.float32]], label: Ints,
    ) -> Batch:  # fmt: skip
        """Pairs to be judged, each its own row in every modality."""
        texts = [text_tensors(self.text, self.tokenizer, sentence) for sentence in sentences]
        ids = np.concatenate([item["ids"] for item in texts]).astype(np.int32)
        mask = np.concatenate([item["mask"] for item in texts]).astype(np.float32)
        inputs: dict[str, Inputs] = {"vision": (pictures,), "text": (ids, mask), "sensors": rooms}
        return Batch(
            inputs=inputs,
            rows=in_step(inputs, len(label)),
            label=label,
            presence=np.ones((len(label), 3), np.float32),
        )


class RepairedSource:
    """Every sentence once an epoch, each step with fresh pictures and rooms, in `repairing` random pairings.

    Half of the rooms are drawn empty, as the data's own pairs are; so the label frequencies stay close to theirs.
    """

    counts: NDArray[np.float64]

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: bytes,
        voice: Sequence[tuple[str, str]],
        actions: tuple[str, ...],
        pictures: NDArray[np.uint8],
        digits: Ints,
        windows: NDArray[np.float32],
        masks: NDArray[np.float32],
        occupants: Ints,
    ) -> None:
        assert recipe.model.text is not None
        self._encoder = sentence_encoder(recipe, tokenizer)
        self._texts = [text for text, _ in voice]
        self._actions = np.array([actions.index(action) for _, action in voice])
        self._pictures, self._digits = pictures, digits
        self._windows, self._masks, self._occupants = windows, masks, occupants
        self._empty, self._people = np.flatnonzero(occupants == 0), np.flatnonzero(occupants > 0)
        self._batch, self._repairing = recipe.train.batch, recipe.train.repairing
        names = {name: index for index, name in enumerate(recipe.labels)}
        self._joined = _joined_table(actions, names)
        self.steps = len(self._texts) // self._batch
        self.side_counts: Mapping[str, NDArray[np.float64]] = {}
        self.aux_counts: Mapping[str, NDArray[np.float64]] = {
            "action": np.bincount(self._actions, minlength=len(actions)).astype(float),
            "gesture": np.bincount(digits, minlength=10).astype(float),
            "occupied": np.bincount((occupants > 0) * 1, minlength=2).astype(float),
        }

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """`steps` batches; the last incomplete one is left out."""
        order = rng.permutation(len(self._texts))
        ids, mask = self._encoder.encode([self._texts[index] for index in order])
        for step in range(self.steps):
            span = slice(step * self._batch, (step + 1) * self._batch)
            size = self._batch
            shown = rng.integers(len(self._digits), size=size)
            crowd = rng.random(size) < 0.5
            rooms = np.where(crowd, rng.choice(self._people, size), rng.choice(self._empty, size))
            pairings = [(rng.permutation(size), np.arange(size), rng.permutation(size)) for _ in range(self._repairing)]
            shows, says, stands = (np.concatenate(part) for part in zip(*pairings, strict=True))
            actions, digits, people = self._actions[order[span]], self._digits[shown], self._occupants[rooms]
            label = self._joined[actions[says], (digits[shows] != 0) * 1, (people[stands] > 0) * 1]
            yield Batch(
                inputs={
                    "vision": (self._pictures[shown],),
                    "text": (ids[span], mask[span]),
                    "sensors": (self._windows[rooms], self._masks[rooms]),
                },
                rows={"vision": shows, "text": says, "sensors": stands},
                label=label,
                presence=np.ones((len(label), 3), np.float32),
                aux={"action": actions, "gesture": digits, "occupied": (people > 0) * 1},
            )


def _joined_table(actions: Sequence[str], names: Mapping[str, int]) -> Ints:
    """[action, gesture is not cancel, someone is there] to label, by `join_label`."""
    table = np.zeros((len(actions), 2, 2), np.int64)
    for index, action in enumerate(actions):
        for shown in (0, 1):
            for people in (0, 1):
                gesture = CANCEL_GESTURE if shown == 0 else CANCEL_GESTURE + 1
                label = join_label(action, gesture, people)
                if label not in names:
                    raise UserError(f"labels lack {label!r}, which the data's rule gives; add it to the recipe")
                table[index, shown, people] = names[label]
    return table
