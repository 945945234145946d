"""Labelled moments as tensors: exactly what the device's stages would be fed, made by its own align and preprocess."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibration.moments import LabelledSet, TrueObject, replay
from edge_runtime.bundle import Bundle, Stage
from edge_runtime.errors import UserError
from edge_runtime.infer.feed import feed, presence_tensor
from edge_runtime.messages import Frame, Tensor, Tensors
from edge_runtime.specs import CameraStream
from edge_runtime.streams import preprocessors
from edge_runtime.tensor_source import PRESENCE, TensorSource, stream_tensor


class Shown(NamedTuple):
    """How a camera's picture came to be the model's."""

    spec: CameraStream
    size: tuple[int, int]
    """Width and height of the picture that the model's was made of."""


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """One moment."""

    id: str
    group: str
    label: str
    condition: str
    present: tuple[str, ...]
    """The streams that were there, in the manifest's order."""
    tensors: Mapping[TensorSource, Tensor]
    """What stages read of streams and presence; absent streams have none."""
    tags: tuple[str, ...] = ()
    """For a tagging head: the right tag of each word."""
    values: Mapping[str, float] = field(default_factory=dict)
    """For regression heads: the right value by name."""
    side: Mapping[str, str] = field(default_factory=dict)
    """Name of a head beside the first to its right label."""
    objects: tuple[TrueObject, ...] = ()
    """For a detection head: everything that is in the picture."""
    shown: Mapping[str, Shown] = field(default_factory=dict)
    """By camera that was there."""


def read_samples(bundle: Bundle, moments: Iterable[LabelledSet]) -> Iterator[CalibrationSample]:
    """`moments` as the stages of `bundle` would see them, one at a time."""
    manifest = bundle.manifest
    preprocess = preprocessors(manifest.streams, bundle.read)
    sources = {source for stage in manifest.stages for source in stage.sources}
    for moment, aligned in replay(manifest.streams, moments):
        tensors: dict[TensorSource, Tensor] = {PRESENCE: presence_tensor(manifest.presence, aligned)}
        present = tuple(name for name in manifest.streams if aligned.slices[name].present)
        for name in present:
            arrays = preprocess[name](aligned.slices[name])
            for part, value in arrays.items():
                if (source := stream_tensor(name, part)) in sources:
                    tensors[source] = value
        frames = ((name, aligned.slices[name].newest) for name in present)
        shown = {
            name: Shown(spec, frame.size)
            for name, frame in frames
            if isinstance(frame, Frame) and frame.size and isinstance(spec := manifest.streams[name], CameraStream)
        }
        yield CalibrationSample(
            moment.id, moment.group, moment.label, moment.condition, present, tensors, moment.tags, moment.values,
            moment.side, moment.objects, shown,
        )  # fmt: skip


class SampleStore:
    """Samples on disk while it is decided which of them are wanted: reading pictures once is most of the time.

    A temporary file without a name, gone when the store is. One thread.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """In `folder`, or where temporary files go."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as the store
        self._parts: list[tuple[CalibrationSample, dict[TensorSource, tuple[int, np.dtype[Any], tuple[int, ...]]]]] = []
        """Each sample without its tensors, and where those are: offset, dtype, shape."""
        self._end = 0

    def keep(self, sample: CalibrationSample) -> None:
        """Put `sample` away. Raises UserError where the disk is full."""
        places = {}
        try:
            for source, value in sample.tensors.items():
                places[source] = (self._end, value.dtype, value.shape)
                self._end += self._file.write(np.ascontiguousarray(value).tobytes())
        except OSError as error:
            raise UserError(f"cannot keep the moments' tensors ({error.strerror}); make room on the disk") from None
        self._parts.append((replace(sample, tensors={}), places))

    def take(self, indices: Iterable[int]) -> list[CalibrationSample]:
        """The samples that went by as number `indices`, in that order."""
        samples = []
        for index in indices:
            sample, places = self._parts[index]
            tensors = {source: self._read(*place) for source, place in places.items()}
            samples.append(replace(sample, tensors=tensors))
        return samples

    def _read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
        self._file.seek(offset)
        data = self._file.read(dtype.itemsize * math.prod(shape))
        self._file.seek(0, os.SEEK_END)
        return np.frombuffer(data, dtype).reshape(shape)


def stage_feeds(stage: Stage, sample: CalibrationSample, outputs: Mapping[str, Tensors]) -> Tensors:
    """The inputs of `stage`, as on the device. `outputs`: what earlier stages gave."""

    def tensor_of(source: TensorSource) -> Tensor | None:
        return outputs[source.name][source.field] if source.kind == "stage" else sample.tensors.get(source)

    return feed(stage, tensor_of)
