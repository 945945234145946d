"""A split as arrays, one row a labelled moment, through the device's admission, alignment and preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from build_engines.data.datasets import Batch, Prepared
from build_engines.recipe import Recipe
from calibration.moments import LabelledSet, replay
from edge_runtime.errors import UserError
from edge_runtime.messages import Utterance
from edge_runtime.preprocess import Tokenizer, slice_tensors
from edge_runtime.streams import CameraStream, SensorStream, TextStream

ROWS = 128


@dataclass(frozen=True)
class Split:
    """N moments. What a stream lacks is 0 (and its sentence empty)."""

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    """Moments of one group are not independent."""
    texts: tuple[str, ...]
    image: NDArray[np.uint8] | None
    """[N, cameras, H, W, 3] BGR"""
    text: tuple[NDArray[np.int32], NDArray[np.float32]] | None
    """ids and mask [N, L]"""
    sensors: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """window and mask [N, T, C]"""
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
                vision=None if self.image is None else self.image[part],
                text=None if self.text is None else (self.text[0][part], self.text[1][part]),
                sensors=None if self.sensors is None else (self.sensors[0][part], self.sensors[1][part]),
                rows=np.repeat(np.arange(count)[:, None], 3, axis=1),
                label=np.zeros(count, np.int64),
                presence=self.presence[part],
            )


def read_split(recipe: Recipe, prepared: Prepared, moments: Iterable[LabelledSet]) -> Split:
    """`moments` as arrays. `prepared` gives channels and tokenizer. Raises UserError if there is none."""
    streams, model = prepared.streams, recipe.model
    tokenizer = Tokenizer(prepared.tokenizer) if prepared.tokenizer is not None else None
    labels, groups, texts = [], [], []
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for moment, aligned in replay(streams, moments):
        labels.append(moment.label)
        groups.append(moment.cluster or moment.group)
        texts.append("")
        there = [aligned.slices[name].present for name in recipe.modalities]
        columns.setdefault("presence", []).append(np.array(there, np.float32))
        for name in recipe.modalities:
            spec, part = streams[name], aligned.slices[name]
            if part.present:
                made = dict(slice_tensors(spec, part, tokenizer))
                newest = part.newest
                if isinstance(newest, Utterance):
                    texts[-1] = newest.text
            elif isinstance(spec, CameraStream):
                made = {"image": np.zeros((1, spec.height, spec.width, 3), np.uint8)}
            elif isinstance(spec, TextStream):
                made = {"ids": np.zeros((1, spec.max_tokens), np.int32), "mask": np.zeros((1, spec.max_tokens), "f4")}
            else:
                assert isinstance(spec, SensorStream)
                made = dict.fromkeys(("window", "mask"), np.zeros((1, spec.window, len(spec.channels)), np.float32))
            for field, value in made.items():
                columns.setdefault(f"{name} {field}", []).append(value[0])
    if not labels:
        raise UserError("compare: a split holds no labelled moment; check --data")
    arrays = {name: np.stack(values) for name, values in columns.items()}
    cameras = [arrays[f"{name} image"] for name in model.vision.streams] if model.vision else []
    said, window = (f"{model.text.stream} " if model.text else "", f"{model.sensors.stream} " if model.sensors else "")
    return Split(
        tuple(labels), tuple(groups), tuple(texts),
        np.stack(cameras, axis=1).astype(np.uint8) if cameras else None,
        (arrays[said + "ids"].astype(np.int32), arrays[said + "mask"].astype(np.float32)) if said else None,
        (arrays[window + "window"].astype(np.float32), arrays[window + "mask"].astype(np.float32)) if window else None,
        arrays["presence"].astype(np.float32),
    )  # fmt: skip
