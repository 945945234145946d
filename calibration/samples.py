"""Labelled moments as tensors: exactly what the device's stages would be fed, made by its own align and preprocess."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.moments import LabelledSet, replay
from edge_runtime.bundle import TOKENIZER, Bundle, Stage, StageInput
from edge_runtime.messages import AlignedSet, Tensor, Tensors
from edge_runtime.preprocess import Tokenizer, slice_tensors
from edge_runtime.streams import TextStream


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """One moment."""

    id: str
    group: str
    label: str
    condition: str
    present: tuple[str, ...]
    """The streams that were there, in the manifest's order."""
    tensors: Mapping[str, Tensor]
    """Source in the manifest's words (`stream:<stream>:<field>`, `presence`) to tensor; absent streams have none."""
    tags: tuple[str, ...] = ()
    """For a tagging head: the right tag of each word."""


def read_samples(bundle: Bundle, moments: Iterable[LabelledSet]) -> Iterator[CalibrationSample]:
    """`moments` as the stages of `bundle` would see them, one at a time."""
    manifest = bundle.manifest
    has_text = any(isinstance(spec, TextStream) for spec in manifest.streams.values())
    tokenizer = Tokenizer(bundle.read(TOKENIZER)) if has_text else None
    sources = {source for stage in manifest.stages for source in stage.streams}
    for moment, aligned in replay(manifest.streams, moments):
        tensors: dict[str, Tensor] = {"presence": _presence(manifest.presence, aligned)}
        present = tuple(name for name in manifest.streams if aligned.slices[name].present)
        for name in present:
            made = slice_tensors(manifest.streams[name], aligned.slices[name], tokenizer)
            for field, value in made.items():
                if f"stream:{name}:{field}" in sources:
                    tensors[f"stream:{name}:{field}"] = value
        yield CalibrationSample(moment.id, moment.group, moment.label, moment.condition, present, tensors, moment.tags)


class SampleStore:
    """Samples on disk while it is decided which of them are wanted: reading pictures once is most of the time.

    A temporary file without a name, gone when the store is. One thread.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the store
        self._parts: list[tuple[CalibrationSample, dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]]] = []
        """Each sample without its tensors, and where those are: offset, dtype, shape."""
        self._end = 0

    def keeping(self, samples: Iterable[CalibrationSample]) -> Iterator[CalibrationSample]:
        """`samples`, each put away as it goes by."""
        for sample in samples:
            places = {}
            for source, value in sample.tensors.items():
                places[source] = (self._end, value.dtype, value.shape)
                self._end += self._file.write(np.ascontiguousarray(value).tobytes())
            self._parts.append((replace(sample, tensors={}), places))
            yield sample

    def take(self, indices: Iterable[int]) -> list[CalibrationSample]:
        """The samples that went by as number `indices`, in that order."""
        found = []
        for index in indices:
            sample, places = self._parts[index]
            tensors = {source: self._read(*place) for source, place in places.items()}
            found.append(replace(sample, tensors=tensors))
        return found

    def _read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
        self._file.seek(offset)
        data = self._file.read(dtype.itemsize * math.prod(shape))
        self._file.seek(0, os.SEEK_END)
        return np.frombuffer(data, dtype).reshape(shape)


def _presence(streams: Iterable[str], aligned: AlignedSet) -> Tensor:
    return np.array([[float(aligned.slices[name].present) for name in streams]], np.float32)


def stage_feeds(stage: Stage, sample: CalibrationSample, outputs: Mapping[str, Tensors]) -> Tensors:
    """The inputs of `stage`, as on the device: absent streams are zeros. `outputs`: what earlier stages gave."""
    return {item.name: _gathered(item, sample, outputs) for item in stage.inputs}


def _gathered(item: StageInput, sample: CalibrationSample, outputs: Mapping[str, Tensors]) -> Tensor:
    parts = [_source(item, source, sample, outputs) for source in item.sources]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=0)


def _source(item: StageInput, source: str, sample: CalibrationSample, outputs: Mapping[str, Tensors]) -> Tensor:
    if source.startswith("stage:"):
        _, name, field = source.split(":")
        return outputs[name][field]
    found = sample.tensors.get(source)
    if found is not None:
        return found
    return np.zeros((item.shape[0] // len(item.sources), *item.shape[1:]), dtype=item.dtype)
