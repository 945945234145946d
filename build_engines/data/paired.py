"""Moments of a data folder as arrays, and batches of them, each moment's modalities as they were recorded together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.data.datasets import Batch, Ints, answer_names, names_of
from build_engines.data.tokenizer import SamplingEncoder
from build_engines.heads import build_of
from build_engines.recipe import Recipe
from calibration.moments import LabelledSet, replay
from edge_runtime.errors import UserError
from edge_runtime.messages import Slice, Utterance
from edge_runtime.preprocess import slice_tensors
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream

Arrays = dict[str, NDArray[np.generic]]
Change = Callable[[Batch, np.random.Generator], Batch]


def build_arrays(
    recipe: Recipe, streams: Mapping[str, StreamSpec], sets: Iterable[LabelledSet], data: Path, split: str
) -> Arrays:
    """`sets` through the device's admission, alignment and preprocessing, one row a labelled moment.

    `image` [N, cameras, H, W, 3], `window` and `mask` [N, T, C], `texts` [N], `presence` [N, modalities] and `labels`
    [N, 2]: what is right with everything known, and without the first stream that changes it; a label's number, or
    [V] values. `side <name>` [N] or [N, V]: the same, with everything known, for the heads beside the first. Zeros
    where a stream is absent. Raises UserError for a label that the recipe lacks, a value that the data lacks, a
    picture that the device refuses, and a split without any moment.
    """
    head, others = recipe.output_head, {name: head for name, head in recipe.heads.items() if name}
    columns: dict[str, list[NDArray[np.generic]]] = {}
    texts: list[str] = []
    labels: list[NDArray[np.generic]] = []
    refused: Counter[str] = Counter()
    for moment, aligned in replay(streams, sets, refused=refused):
        slices = [aligned.slices[name] for name in recipe.modalities]
        for name, value in _tensors(recipe, streams, aligned.slices).items():
            columns.setdefault(name, []).append(value)
        columns.setdefault("presence", []).append(np.array([part.present for part in slices], np.float32))
        said = aligned.slices[recipe.model.text.stream].newest if recipe.model.text else None
        texts.append(said.text if isinstance(said, Utterance) else "")
        other = next(iter(moment.label_without.values()), moment.label)
        try:
            both = [build_of(head).truth(head, "", one) for one in (moment, dataclasses.replace(moment, label=other))]
            labels.append(np.stack(both))
            for name, beside in others.items():
                columns.setdefault(f"side {name}", []).append(build_of(beside).truth(beside, name, moment))
        except UserError as error:
            raise UserError(f"data {data}: {error}") from None
        for reason in refused:
            if isinstance(streams[reason.split(" ")[0]], CameraStream):
                raise UserError(f"data {data}: {moment.id}: the device refuses its picture ({reason})")
    if not labels:
        raise UserError(f"data {data}: the split {split!r} has no labelled moment")
    arrays: Arrays = {name: np.stack(values) for name, values in columns.items()}
    return arrays | {"texts": np.array(texts), "labels": np.stack(labels)}


def _tensors(recipe: Recipe, streams: Mapping[str, StreamSpec], slices: Mapping[str, Slice]) -> Arrays:
    """`image` [cameras, H, W, 3], `window` and `mask` [T, C] of one moment; zeros where a stream is absent."""
    found: Arrays = {}
    model = recipe.model
    if model.vision is not None:
        images = []
        for name in model.vision.streams:
            spec, part = streams[name], slices[name]
            assert isinstance(spec, CameraStream)
            empty = np.zeros((1, spec.height, spec.width, 3), np.uint8)
            images.append(slice_tensors(spec, part, None)["image"] if part.present else empty)
        found["image"] = np.concatenate(images)
    if model.sensors is not None:
        spec, part = streams[model.sensors.stream], slices[model.sensors.stream]
        assert isinstance(spec, SensorStream)
        if part.present:
            made = slice_tensors(spec, part, None)
            found |= {"window": made["window"][0], "mask": made["mask"][0]}
        else:
            nothing = np.zeros((spec.window, len(spec.channels)), np.float32)
            found |= {"window": nothing, "mask": nothing}
    return found


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
    ) -> None:
        """`aux`: auxiliary label to its class for each moment [N], negative where it has none. `training` = False
        cuts words the one most probable way. `change` is made to each batch of an epoch."""
        self._arrays = arrays
        self._labels = arrays["labels"]
        self._side = {name[5:]: values for name, values in arrays.items() if name.startswith("side ")}
        self._aux = aux
        self._change = change
        self._batch = min(recipe.train.batch, len(self._labels))
        self._text_name = recipe.model.text.stream if recipe.model.text else None
        self._unique, self._which = np.unique(arrays["texts"], return_inverse=True)
        self._encoder: SamplingEncoder | None = None
        if recipe.model.text is not None and tokenizer is not None:
            spec = recipe.streams[recipe.model.text.stream]
            assert isinstance(spec, TextStream)
            alpha = recipe.tokenizer.sampling_alpha if training else 0.0
            self._encoder = SamplingEncoder(tokenizer, spec, alpha, recipe.seed)
        self.steps = len(self._labels) // self._batch
        self.counts = counted(self._labels[:, 0], len(answer_names(recipe)))
        heads = recipe.heads
        self.side_counts: Mapping[str, NDArray[np.float64]] = {
            name: counted(values, len(names_of(heads[name]))) for name, values in self._side.items()
        }
        self.aux_counts: Mapping[str, NDArray[np.float64]] = {
            name: np.bincount(values[values >= 0]).astype(float) for name, values in aux.items()
        }

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """`steps` batches; the last incomplete one is left out."""
        order = rng.permutation(len(self._labels))
        encoded = self._encode()
        for step in range(self.steps):
            batch = self._rows(order[step * self._batch : (step + 1) * self._batch], encoded)
            yield batch if self._change is None else self._change(batch, rng)

    def in_order(self) -> Iterator[Batch]:
        """All moments in the order they were recorded."""
        encoded = self._encode()
        for start in range(0, len(self._labels), self._batch):
            yield self._rows(np.arange(start, min(start + self._batch, len(self._labels))), encoded)

    def _encode(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        return self._encoder.encode([str(text) for text in self._unique]) if self._encoder else None

    def _rows(self, index: Ints, encoded: tuple[NDArray[np.int32], NDArray[np.float32]] | None) -> Batch:
        arrays = self._arrays
        text = None if encoded is None else (encoded[0][self._which[index]], encoded[1][self._which[index]])
        sensors = (arrays["window"][index].astype(np.float32), arrays["mask"][index].astype(np.float32)) if (
            "window" in arrays
        ) else None  # fmt: skip
        without = self._labels[index, 1]
        return Batch(
            vision=arrays["image"][index].astype(np.uint8) if "image" in arrays else None,
            text=text,
            sensors=sensors,
            rows=np.repeat(np.arange(len(index))[:, None], 3, axis=1),
            label=self._labels[index, 0],
            presence=arrays["presence"][index].astype(np.float32),
            label_without={} if self._text_name is None or without.ndim > 1 else {self._text_name: without},
            aux={name: values[index] for name, values in self._aux.items()},
            side={name: values[index] for name, values in self._side.items()},
        )


def counted(answers: NDArray[np.generic], kinds: int) -> NDArray[np.float64]:
    """How often each of the `kinds` of answers occurs; all 0 for answers that are no numbers of labels."""
    if not np.issubdtype(answers.dtype, np.integer):
        return np.zeros(kinds)
    return np.bincount(answers.astype(np.int64), minlength=kinds).astype(float)
