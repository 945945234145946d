"""A split as arrays, one row a labelled moment, through the device's admission, alignment and preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.data.arrays import stream_arrays
from build_engines.data.datasets import Batch, Inputs, Prepared, in_step
from build_engines.modalities import modality_of_encoder
from build_engines.recipe import Recipe
from calibration.moments import LabelledSet, replay
from edge_runtime.errors import UserError
from edge_runtime.messages import Utterance
from edge_runtime.streams import preprocessors

ROWS = 128


@dataclass(frozen=True)
class Split:
    """N moments. What a stream lacks is 0 (and its sentence empty)."""

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    """Moments of one group are not independent."""
    texts: tuple[str, ...]
    inputs: Mapping[str, Inputs]
    """Encoder to what it reads, [N, ...] each, as in a `Batch`"""
    presence: NDArray[np.float32]
    """[N, n] in the recipe's order of modalities"""

    def folds(self) -> tuple[str, ...]:
        """What must not be torn apart when folds are made: groups, or sentences where every moment is a group."""
        if len(set(self.groups)) == len(self.groups) and any(self.texts):
            return self.texts
        return self.groups

    def batches(self) -> Iterator[Batch]:
        """The same for the model: every row a pair of its own."""
        for start in range(0, len(self.labels), ROWS):
            part = slice(start, start + ROWS)
            count = len(self.labels[part])
            yield Batch(
                inputs=(inputs := {name: tuple(array[part] for array in read) for name, read in self.inputs.items()}),
                rows=in_step(inputs, count),
                label=np.zeros(count, np.int64),
                presence=self.presence[part],
            )


def read_split(recipe: Recipe, prepared: Prepared, moments: Iterable[LabelledSet]) -> Split:
    """`moments` as arrays. `prepared` gives channels and tokenizer. Raises UserError if there is none."""
    streams, encoders = prepared.streams, recipe.model.encoders
    read = {name: streams[name] for name in recipe.modalities}
    preprocess = preprocessors(read, lambda name: prepared.tokenizer or b"")
    labels, groups, texts = [], [], []
    presence: list[NDArray[np.float32]] = []
    columns: dict[str, list[tuple[NDArray[Any], ...]]] = {name: [] for name in encoders}
    for moment, aligned in replay(streams, moments):
        labels.append(moment.label)
        groups.append(moment.cluster or moment.group)
        slices = {name: aligned.slices[name] for name in recipe.modalities}
        presence.append(np.array([part.present for part in slices.values()], np.float32))
        newest = (part.newest for part in slices.values())
        texts.append(next((message.text for message in newest if isinstance(message, Utterance)), ""))
        for name, encoder in encoders.items():
            parts = [stream_arrays(streams[stream], slices[stream], preprocess[stream]) for stream in encoder.streams]
            # Cameras have an axis of their own, the other encoders read one stream.
            arrays = (np.concatenate([part[field] for part in parts]) for field in parts[0])
            several = modality_of_encoder(encoder).batched
            columns[name].append(tuple(arrays if several else (value[0] for value in arrays)))
    if not labels:
        raise UserError("compare: a split holds no labelled moment; check --data")
    inputs = {name: tuple(np.stack(values) for values in zip(*rows, strict=True)) for name, rows in columns.items()}
    return Split(tuple(labels), tuple(groups), tuple(texts), inputs, np.stack(presence))
