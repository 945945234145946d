"""Moments of a data folder as arrays, and batches of them, each moment's modalities as they were recorded together."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.data.arrays import Arrays, stream_arrays
from build_engines.data.columns import alone, joined, read_columns, write_columns
from build_engines.data.datasets import Batch, Fold, Inputs, Ints, answer_names, in_step, names_of
from build_engines.data.folds import grouped
from build_engines.data.tokenizer import SentenceEncoder, sentence_encoder
from build_engines.heads import build_of
from build_engines.modalities import encoder_fields, modality_of_encoder
from build_engines.recipe import Recipe
from calibration.moments import LabelledSet, digest, replay
from calibration.spread import spread
from edge_runtime.errors import UserError
from edge_runtime.kinds.kind import Preprocess
from edge_runtime.messages import AlignedSet, Utterance
from edge_runtime.streams import CameraStream, StreamSpec, TextStream, preprocessors, streams_of

FORM = 4
"""Of the rows that are kept: caches of another form are not read."""
NO_CLASS = -100
"""Of an auxiliary label that a moment does not have; the loss leaves such moments out."""
IN_MEMORY = ("presence", "labels", "side ")
"""Columns of which a row is some bytes, by the beginning of their names."""
Change = Callable[[Batch, np.random.Generator], Batch]
Row = Mapping[str, "NDArray[Any] | str"]
Read = Callable[[], Iterable[LabelledSet]]
"""Gives the moments, afresh each time."""


def build_arrays(
    recipe: Recipe, streams: Mapping[str, StreamSpec], read: Read, data: Path, split: str, work: Path, name: str = ""
) -> Arrays:
    """The moments through the device's admission, alignment and preprocessing, one row a labelled moment, by all cores.

    `<encoder> <field>` [N, ...] of every encoder but the text's, on disk below `work`; in memory `texts` [N],
    `presence` [N, modalities] and `labels` [N, 2]: what is right with everything known, and without the first stream
    that changes it; a label's number, or [V] values. `side <name>` [N] or [N, V]: the same, with everything known, for
    the heads beside the first. `groups` [N]: what each is not independent of. Zeros where a stream is absent.

    What lies there already is used, if the same would be made again; other rows of that `name` (default: the split's)
    are deleted. Raises UserError for a label that the recipe lacks, a value that the data lacks, a picture that the
    device refuses, a split without any moment, and a full disk.
    """
    name, recipe = name or split, msgspec.structs.replace(recipe, streams=dict(streams))
    about = [FORM, digest(read()), recipe.streams, recipe.output_head, recipe.heads, recipe.modalities]
    key = hashlib.sha256(msgspec.json.encode(about, order="deterministic")).hexdigest()[:16]
    folder = work / f"{name}-{key}"
    with alone(work, name):
        columns = read_columns(folder)
        if columns is None:
            for old in work.glob(f"{name}-*"):
                shutil.rmtree(old)
            rows = spread(partial(_rows_of, recipe, data), read(), group=_group)
            columns = write_columns(folder, rows)
    if "labels" not in columns:
        raise UserError(f"data {data}: the split {split!r} has no labelled moment")
    return {name: np.asarray(column) if name.startswith(IN_MEMORY) else column for name, column in columns.items()}


def _group(moment: LabelledSet) -> str:
    return moment.group


def _rows_of(recipe: Recipe, data: Path) -> Callable[[Iterator[LabelledSet]], Iterator[Row]]:
    return partial(_rows, recipe, data)


def _rows(recipe: Recipe, data: Path, sets: Iterator[LabelledSet]) -> Iterator[Row]:
    """What `build_arrays` keeps of each of `sets`."""
    head, others = recipe.output_head, {name: head for name, head in recipe.heads.items() if name}
    refused: Counter[str] = Counter()
    pictures = streams_of(recipe.streams, CameraStream)
    plain = {name: spec for name, spec in recipe.streams.items() if not isinstance(spec, TextStream)}
    preprocess = preprocessors(plain, _no_file)
    for moment, aligned in replay(recipe.streams, sets, refused=refused):
        row: dict[str, NDArray[Any] | str] = dict(_tensors(recipe, preprocess, aligned))
        slices = [aligned.slices[name] for name in recipe.modalities]
        row["presence"] = np.array([part.present for part in slices], np.float32)
        utterance = aligned.slices[recipe.model.text.stream].newest if recipe.model.text else None
        row["texts"] = utterance.text if isinstance(utterance, Utterance) else ""
        row["groups"] = moment.cluster or moment.group
        other = next(iter(moment.label_without.values()), moment.label)
        try:
            truths = [
                build_of(head).truth(head, "", variant)
                for variant in (moment, dataclasses.replace(moment, label=other))
            ]
            row["labels"] = np.stack(truths)
            for name, beside in others.items():
                row[f"side {name}"] = np.asarray(build_of(beside).truth(beside, name, moment))
        except UserError as error:
            raise UserError(f"data {data}: {error}") from None
        for reason in refused:
            if reason.split(" ")[0] in pictures:
                raise UserError(f"data {data}: {moment.id}: the device refuses its picture ({reason})")
        yield row


def _no_file(name: str) -> bytes:
    raise AssertionError(f"no stream but the text's needs {name}")


def _array_name(encoder: str, field: str) -> str:
    return f"{encoder} {field}"


def _tensors(recipe: Recipe, preprocess: Mapping[str, Preprocess], aligned: AlignedSet) -> dict[str, NDArray[Any]]:
    """What each encoder but the text's reads in one moment, the batch axis of one taken off: `<encoder> <field>`.

    An encoder of several streams has theirs on the first axis. Zeros where a stream is absent.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, encoder in recipe.model.encoders.items():
        if name == "text":
            continue
        parts = [
            stream_arrays(recipe.streams[stream], aligned.slices[stream], preprocess[stream])
            for stream in encoder.streams
        ]
        several = modality_of_encoder(encoder).batched
        for field in parts[0]:
            rows = [part[field] for part in parts]
            arrays[_array_name(name, field)] = np.concatenate(rows) if several else rows[0][0]
    return arrays


class PairedSource:
    """Moments as recorded, shuffled; subwords are drawn anew each epoch."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: bytes | None,
        arrays: Arrays,
        aux: Mapping[str, Ints],
        training: bool = True,
        change: Change | None = None,
        rows: Ints | None = None,
        times: Ints | None = None,
    ) -> None:
        """`aux`: auxiliary label to its class for each moment [N], NO_CLASS where it has none. `training` = False
        cuts words the one most probable way. `change` is made to each batch of an epoch. `rows`: which of the moments
        it gives, in order; None = all. `times` [N]: how often an epoch gives each; None = once."""
        self._recipe, self._tokenizer = recipe, tokenizer
        self.arrays = arrays
        self._index = np.arange(len(arrays["labels"])) if rows is None else rows
        self._times = times
        if times is not None:
            self._index = np.repeat(self._index, times[self._index])
        self._fields = {
            name: tuple(encoder_fields(recipe.streams[encoder.streams[0]]))
            for name, encoder in recipe.model.encoders.items()
        }
        """Encoder to the fields that it reads, in order."""
        self._labels = np.asarray(arrays["labels"])
        self._side = {name[5:]: np.asarray(values) for name, values in arrays.items() if name.startswith("side ")}
        self._aux = aux
        self._change = change
        self._batch = min(recipe.train.batch, len(self._index))
        self._text_name = recipe.model.text.stream if recipe.model.text else None
        self._unique, self._sentence_rows = np.unique(arrays["texts"], return_inverse=True)
        self._encoder: SentenceEncoder | None = None
        if recipe.model.text is not None and tokenizer is not None:
            self._encoder = sentence_encoder(recipe, tokenizer, training)
        self.steps = len(self._index) // self._batch
        self.counts = counted(self._labels[self._index, 0], len(answer_names(recipe)))
        heads = recipe.heads
        self.side_counts: Mapping[str, NDArray[np.float64]] = {
            name: counted(values[self._index], len(names_of(heads[name]))) for name, values in self._side.items()
        }
        self.aux_counts: Mapping[str, NDArray[np.float64]] = {
            name: np.bincount(values[self._index][values[self._index] >= 0]).astype(float)
            for name, values in aux.items()
        }

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """`steps` batches; the last incomplete one is left out."""
        order = self._index[rng.permutation(len(self._index))]
        encoded = self._encode()
        for step in range(self.steps):
            batch = self._rows(order[step * self._batch : (step + 1) * self._batch], encoded)
            yield batch if self._change is None else self._change(batch, rng)

    def and_also(self, more: Arrays, times: int) -> PairedSource:
        """With the moments of `more`, each given `times` times an epoch; they have no auxiliary labels. Of all moments
        of this source alone."""
        extra = len(more["labels"])
        own = np.ones(len(self._labels), np.int64) if self._times is None else self._times
        return PairedSource(
            self._recipe, self._tokenizer, {name: joined(rows, more[name]) for name, rows in self.arrays.items()},
            {name: np.concatenate([classes, np.full(extra, NO_CLASS)]) for name, classes in self._aux.items()},
            change=self._change, times=np.concatenate([own, np.full(extra, times)]),
        )  # fmt: skip

    def in_order(self) -> InOrder:
        """All moments in the order they were recorded."""
        encoded = self._encode()
        return InOrder(len(self._index), self._batch, lambda places: self._rows(self._index[places], encoded))

    def folds(self, count: int, seed: int) -> list[Callable[[], Fold]]:
        """Its moments in folds. What was fitted without labels (the channels' mean and deviation, the tokenizer) stays
        that of them all."""
        labels: NDArray[np.generic] = self._labels[:, 0]
        strata = labels if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels))
        groups = [str(group) for group in self.arrays["groups"]]
        return [partial(self._fold, fit, left, groups) for fit, left in grouped(strata, groups, count, seed)]

    def _fold(self, fit: Ints, left: Ints, groups: Sequence[str]) -> Fold:
        seen = PairedSource(
            self._recipe, self._tokenizer, self.arrays, self._aux, change=self._change, rows=fit, times=self._times
        )
        judged = PairedSource(self._recipe, self._tokenizer, self.arrays, self._aux, training=False, rows=left)
        return Fold(seen, judged.in_order(), tuple(groups[row] for row in left))

    def _encode(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        return self._encoder.encode([str(text) for text in self._unique]) if self._encoder else None

    def _rows(self, index: Ints, encoded: tuple[NDArray[np.int32], NDArray[np.float32]] | None) -> Batch:
        arrays = self.arrays
        inputs: dict[str, Inputs] = {}
        for name, fields in self._fields.items():
            if name != "text":
                inputs[name] = tuple(arrays[_array_name(name, field)][index] for field in fields)
            elif encoded is not None:
                inputs[name] = (encoded[0][self._sentence_rows[index]], encoded[1][self._sentence_rows[index]])
        without = self._labels[index, 1]
        return Batch(
            inputs=inputs,
            rows=in_step(inputs, len(index)),
            label=self._labels[index, 0],
            presence=arrays["presence"][index].astype(np.float32),
            label_without={} if self._text_name is None or without.ndim > 1 else {self._text_name: without},
            aux={name: values[index] for name, values in self._aux.items()},
            side={name: values[index] for name, values in self._side.items()},
        )


class InOrder(Sequence[Batch]):
    """Batches of rows that follow each other, each made when it is asked for."""

    def __init__(self, rows: int, batch: int, make: Callable[[Ints], Batch]) -> None:
        self._rows, self._batch, self._make = rows, batch, make

    def __len__(self) -> int:
        return (self._rows + self._batch - 1) // self._batch

    @overload
    def __getitem__(self, place: int) -> Batch: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Batch]: ...
    def __getitem__(self, place: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(place, slice):
            return [self[index] for index in range(len(self))[place]]
        start = range(len(self))[place] * self._batch
        return self._make(np.arange(start, min(start + self._batch, self._rows)))


def counted(answers: NDArray[np.generic], kinds: int) -> NDArray[np.float64]:
    """How often each of the `kinds` of answers occurs; all 0 for answers that are no numbers of labels."""
    if not np.issubdtype(answers.dtype, np.integer):
        return np.zeros(kinds)
    return np.bincount(answers.astype(np.int64), minlength=kinds).astype(float)
