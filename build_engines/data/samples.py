"""The layout of labelled single moments: `DATA/<split>/samples.jsonl`, a row a moment.

A row has `id`, a label, and what there is of the fields of each modality: `image` (JPEG or PNG file, relative to DATA),
`audio` (WAV file, likewise), `sensors`, `text`. The recipe's `[dataset]` says what the other fields mean. What is null,
empty or not there never arrives, as on a device.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from build_engines.data.arrays import Arrays
from build_engines.data.datasets import (
    Ints,
    Prepared,
    answer_names,
    digest_of,
)
from build_engines.data.mirror import Mirror
from build_engines.data.paired import NO_CLASS, PairedSource, build_arrays
from build_engines.data.tokenizer import tokenizer_of
from build_engines.modalities import MODALITIES, modality_of
from build_engines.modalities.modality import SampleRow
from build_engines.modalities.text import Text
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from build_engines.rows import Row, read_json_lines
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.capture.tables import column_named, is_missing
from edge_runtime.errors import UserError
from edge_runtime.heads.regression import VALUES
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream, streams_of

MARKER = "samples.jsonl"
AT_NS = 1_000_000_000
"""All messages of a row carry this capture time: they are one moment."""


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every row of `split` as a group of its own. Raises UserError naming the row and what is wrong with it."""
    reader = _Reader(data, streams, dataset)
    for row in _rows(data, split, dataset):
        yield reader.moment(row)


def _rows(data: Path, split: str, dataset: DatasetRecipe) -> Iterator[Row]:
    for row in read_json_lines(data / split / MARKER):
        if row.text("id") not in dataset.exclude:
            yield row


class _Reader:
    """Turns rows into labelled moments."""

    def __init__(self, data: Path, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe) -> None:
        self._data, self._dataset = data, dataset
        self._streams = streams
        if unknown := [name for name in dataset.fields if name not in streams]:
            raise UserError(f"dataset.fields names {unknown[0]!r}; the streams are {', '.join(streams)}")
        for row in MODALITIES.values():
            names = [name for name in streams_of(streams, row.spec) if name not in dataset.fields]
            if len(names) > 1 and not row.shares_field:
                raise UserError(
                    f"{row.field!r} of a row feeds one stream, and there are {', '.join(names)}; say in dataset.fields "
                    "where each is"
                )

    def moment(self, row: Row) -> LabelledSet:
        name = row.text("id")
        if not name:
            raise row.wrong("the row has no id; give it one of its own")
        plan = self._dataset
        groups = [_word(self._field(row, field)) for field in plan.groups]
        condition = _word(self._field(row, plan.condition)) if plan.condition else ""
        label = self._label(row)
        messages = tuple(self._messages(row))
        values = {target: self._target(row, target, field) for target, field in plan.targets.items()}
        side = {head: _word(self._field(row, field)) for head, field in plan.side_labels.items()}
        return LabelledSet(
            name, name, AT_NS, label, messages, condition=condition, cluster=" ".join(groups), values=values, side=side
        )

    def _messages(self, row: Row) -> Iterator[RawMessage]:
        for modality in MODALITIES.values():
            for stream in streams_of(self._streams, modality.spec):
                yield from self.stream_messages(stream, row)

    def stream_messages(self, stream: str, row: Row) -> Iterator[RawMessage]:
        """What the row holds for one stream."""
        spec = self._streams[stream]
        modality, plan = modality_of(spec), self._dataset
        field = plan.fields.get(stream, modality.field)
        yield from modality.messages(stream, spec, SampleRow(row, field, AT_NS, self._path, plan.categories))

    def _path(self, file: str) -> Path:
        path = self._data / file
        if not path.is_file():
            raise UserError(f"data {path}: cannot be read (no such file); the data folder is incomplete")
        return path

    def _target(self, row: Row, name: str, field: str) -> float:
        value = self._field(row, field)
        parsed = None if is_missing(value) else row.number(field, value)
        if parsed is None or not math.isfinite(parsed):
            raise row.wrong(f"{field} is {value!r}; the value {name!r} must be a finite number")
        return parsed

    def _label(self, row: Row) -> str:
        plan = self._dataset
        if not plan.label:
            return VALUES
        value = _word(self._field(row, plan.label))
        if not plan.values:
            return value
        if value not in plan.values:
            values = ", ".join(plan.values)
            raise row.wrong(f"{plan.label} is {value!r}; dataset.values knows {values}")
        return plan.values[value]

    def _field(self, row: Row, path: str) -> Any:
        value: Any = row
        for part in path.split("."):
            name = column_named(part, value) if isinstance(value, dict) else None
            if name is None:
                raise row.wrong(f"it has no field {path!r}; it has {', '.join(map(str, row))}")
            value = value[name]
        if isinstance(value, dict | list):
            raise row.wrong(f"{path} holds several values; one is wanted")
        return None if value != value else value  # noqa: PLR0124  NaN, as data frames write what is not there

    def aux(self, row: Row, name: str) -> str | None:
        """The class of an auxiliary label, or None where the row has none."""
        value = self._field(row, path := self._dataset.aux[name])
        if value is None or name not in self._dataset.bins:
            return None if value is None else _word(value)
        return str(bisect_right(self._dataset.bins[name], row.number(path, value)))

    def cluster(self, row: Row) -> str:
        return " ".join(_word(self._field(row, field)) for field in self._dataset.groups)


def _word(value: Any) -> str:
    """A JSON value as it is written in a recipe."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Arrays of the training split and of the one that is evaluated. Raises UserError."""
    splits = {split: list(_rows(data, split, recipe.dataset)) for split in ("train", recipe.evaluate_split)}
    readers = {split: _Reader(data, recipe.streams, recipe.dataset) for split in splits}
    _refuse_shared_groups(recipe, data, splits, readers)
    streams = _fitted(recipe, splits["train"], readers["train"])
    tokenizer = None
    if recipe.model.text is not None:
        field = recipe.dataset.fields.get(recipe.model.text.stream, Text.field)
        sentences = sorted({text for row in splits["train"] if (text := row.text(field))})
        if not sentences:
            raise UserError(f"data {data}: the training split has no text; leave model.text out of the recipe")
        tokenizer = tokenizer_of(recipe, sentences)
    prepared: dict[str, tuple[Arrays, dict[str, Ints]]] = {}
    classes = _aux_classes(recipe, splits["train"], readers["train"])
    for split, rows in splits.items():
        moments = partial(read, data, split, streams, recipe.dataset)
        arrays = build_arrays(recipe, streams, moments, data, split, work)
        prepared[split] = arrays, _aux(recipe, classes, rows, readers[split])
    mirror = recipe.train.augment.mirror
    change = None
    if mirror is not None:
        read_alone = {name: keys.streams[0] for name, keys in recipe.model.encoders.items()}
        sensors = streams_of(streams, SensorStream)
        specs = {name: sensors[stream] for name, stream in read_alone.items() if stream in sensors}
        change = Mirror(mirror, specs, answer_names(recipe), classes)
    source = PairedSource(recipe, tokenizer, *prepared["train"], change=change)
    plain = PairedSource(recipe, tokenizer, *prepared[recipe.evaluate_split], training=False)
    whole = Prepared(streams, tokenizer, source, plain.in_order(), digest_of(data / "train"), folds=source.folds)
    return with_mined(recipe, whole, work)


def with_mined(recipe: Recipe, prepared: Prepared, work: Path) -> Prepared:
    """`prepared`, its moments as they were recorded, with what `recipe.mined` names in what is trained on. Raises
    UserError."""
    source, total = prepared.train, prepared.digest
    fields = DatasetRecipe(fields=fields_of(prepared.streams), group="recording")
    for number, folder in enumerate(map(Path, recipe.mined.folders)):
        assert isinstance(source, PairedSource)
        moments = partial(read, folder, "train", prepared.streams, fields)
        more = build_arrays(recipe, prepared.streams, moments, folder, "train", work, f"mined{number}")
        source = source.and_also(more, recipe.mined.times)
        total = hashlib.sha256(f"{total} {digest_of(folder)}".encode()).hexdigest()
    folds = source.folds if prepared.folds is not None and isinstance(source, PairedSource) else prepared.folds
    return replace(prepared, train=source, digest=total, folds=folds)


def fields_of(streams: Mapping[str, StreamSpec]) -> dict[str, str]:
    """Stream to the field of a mined row that holds it: the first of a kind where this layout looks for it, others by
    name. Sound is not written."""
    fields: dict[str, str] = {}
    for name, spec in streams.items():
        if isinstance(spec, CameraStream | SensorStream | TextStream):
            usual = modality_of(spec).field
            fields[name] = name.replace(".", "_") if usual in fields.values() else usual
    return fields


def _refuse_shared_groups(
    recipe: Recipe, data: Path, splits: Mapping[str, list[Row]], readers: Mapping[str, _Reader]
) -> None:
    """Raise UserError if a group of rows lies in both splits: what is learned would be judged."""
    if not recipe.dataset.groups:
        return
    first, second = ({readers[split].cluster(row) for row in rows} for split, rows in splits.items())
    if shared := sorted(first & second):
        fields = ", ".join(recipe.dataset.groups)
        raise UserError(
            f"data {data}: {len(shared)} groups ({fields} {shared[0]!r}...) are in both train and "
            f"{recipe.evaluate_split}; split by dataset.group"
        )


def _fitted(recipe: Recipe, rows: list[Row], reader: _Reader) -> dict[str, StreamSpec]:
    """The streams, with what is fitted to `rows`, e.g. each channel's mean and deviation."""
    return {
        name: modality_of(spec).fitted(spec, (raw for row in rows for raw in reader.stream_messages(name, row)))
        for name, spec in recipe.streams.items()
    }


def _aux_classes(recipe: Recipe, rows: list[Row], reader: _Reader) -> dict[str, tuple[str, ...]]:
    """Auxiliary label to the training split's values, in order. Raises UserError if the recipe counts otherwise."""
    model = recipe.model
    classes = {}
    for encoder in model.encoders.values():
        for name, size in encoder.aux.items():
            if name not in recipe.dataset.aux:
                raise UserError(
                    f"recipe {recipe.name}: the auxiliary label {name!r} has no field; add it to dataset.aux"
                )
            values = (reader.aux(row, name) for row in rows)
            classes[name] = tuple(sorted({value for value in values if value is not None}))
            if len(classes[name]) != size:
                raise UserError(
                    f"recipe {recipe.name}: aux.{name} is {size}; the training split's "
                    f"{recipe.dataset.aux[name]} has {len(classes[name])} values ({', '.join(classes[name])})"
                )
    return classes


def _aux(recipe: Recipe, classes: Mapping[str, tuple[str, ...]], rows: list[Row], reader: _Reader) -> dict[str, Ints]:
    """Each auxiliary label's class per row; NO_CLASS where it has none that training knows."""
    numbered = {}
    for name, names in classes.items():
        numbers = {value: index for index, value in enumerate(names)}
        values = (reader.aux(row, name) for row in rows)
        numbered[name] = np.array([numbers.get(value, NO_CLASS) if value else NO_CLASS for value in values], np.int64)
    return numbered
