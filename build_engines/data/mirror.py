"""Mirrored moments: a road that bends left, seen in a mirror, bends right, and its steering has the other sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from build_engines.data.datasets import Batch, Ints
from build_engines.recipe import MirrorRecipe
from edge_runtime.errors import UserError
from edge_runtime.streams import SensorStream

CHANCE = 0.5


class _Signed(NamedTuple):
    """The channels of a stream whose sign changes."""

    columns: Ints
    shift: NDArray[np.float32]
    clip: float

    @classmethod
    def of(cls, spec: SensorStream, names: Sequence[str]) -> _Signed:
        columns = [index for index, channel in enumerate(spec.channels) if channel.name in names]
        # Values are standardised: -x is -(z * std + mean), which standardised again is -z - 2 mean / std.
        shift = [2 * spec.channels[index].mean / spec.channels[index].std for index in columns]
        return cls(np.array(columns, np.int64), np.array(shift, np.float32), spec.clip or np.inf)


class Mirror:
    """Mirrors a random half of each batch whose pairs are its rows: pictures, signed channels and labels together."""

    def __init__(
        self,
        plan: MirrorRecipe,
        sensors: Mapping[str, SensorStream],
        labels: Sequence[str],
        aux: Mapping[str, Sequence[str]],
    ) -> None:
        """`sensors`: encoder to the stream that it reads, with its fitted channels; `aux` is each auxiliary label's
        classes in order. Raises UserError."""
        names = {*labels, *(value for classes in aux.values() for value in classes)}
        if unknown := [name for pair in plan.labels for name in pair if name not in names]:
            raise UserError(f"train.augment.mirror.labels names {unknown[0]!r}; there are {', '.join(sorted(names))}")
        channels = [channel.name for spec in sensors.values() for channel in spec.channels]
        if absent := [name for name in plan.channels if name not in channels]:
            raise UserError(f"train.augment.mirror.channels names {absent[0]!r}; there are {', '.join(channels)}")
        signed = {name: _Signed.of(spec, plan.channels) for name, spec in sensors.items()}
        self._signed = {name: one for name, one in signed.items() if len(one.columns)}
        self._labels = _exchanged(labels, plan.labels)
        self._aux = {name: _exchanged(classes, plan.labels) for name, classes in aux.items()}

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """`batch` with about half of its rows mirrored; the batch that was given stays as it was."""
        turned = rng.random(len(batch.label)) < CHANCE
        inputs = dict(batch.inputs)
        if "vision" in inputs:
            vision = inputs["vision"][0].copy()
            vision[turned] = vision[turned][:, :, :, ::-1]
            inputs["vision"] = (vision,)
        for name, signed in self._signed.items():
            window, mask = inputs[name][0].copy(), inputs[name][1]
            rows = np.flatnonzero(turned)[:, None, None]
            steps = np.arange(window.shape[1])[None, :, None]
            columns = signed.columns[None, None, :]
            opposite = np.clip(-window[rows, steps, columns] - signed.shift, -signed.clip, signed.clip)
            window[rows, steps, columns] = opposite * mask[rows, steps, columns]
            inputs[name] = (window, mask)
        return replace(
            batch,
            inputs=inputs,
            label=_turn(batch.label.astype(np.int64), turned, self._labels),
            label_without={
                name: _turn(value.astype(np.int64), turned, self._labels) for name, value in batch.label_without.items()
            },
            aux={name: _turn(value, turned, self._aux[name]) for name, value in batch.aux.items()},
        )


def _exchanged(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Ints:
    """Number of a name to the number of the name it changes places with; its own where it has none."""
    partner = {name: other for pair in pairs for name, other in (pair, pair[::-1])}
    places = {name: index for index, name in enumerate(names)}
    return np.array([places.get(partner.get(name, name), index) for index, name in enumerate(names)], np.int64)


def _turn(values: Ints, turned: np.ndarray, table: Ints) -> Ints:
    """`values` by `table` where `turned`; a negative value (none) stays."""
    return np.where(turned & (values >= 0), table[np.maximum(values, 0)], values)
