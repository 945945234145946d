"""Sensor readings: a window of samples and which of them were measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from build_engines.modalities.faults import Fault
from build_engines.modalities.modality import Input, Modality, SampleRow
from build_engines.modalities.sensors.faults import reading_faults
from build_engines.modalities.sensors.recipe import SensorsRecipe
from build_engines.modalities.sensors.windows import window_rows
from build_engines.modalities.thinned import Thinned
from calibration.moments import RawMessage
from edge_runtime.capture.tables import column_named, is_missing
from edge_runtime.errors import UserError
from edge_runtime.specs import SensorStream

if TYPE_CHECKING:
    from torch import nn


class Sensors(Modality[SensorsRecipe, SensorStream]):
    """In a row: `sensors`, channel to a number, to a word that the recipe's `dataset.categories` knows, or to null.
    For a window: a list of such readings `step_ms` apart, the last one at the moment, or the name of a file of them:
    CSV with a column for each channel, and perhaps one of seconds (`t_s`); or NPY [steps, channels], NaN where nothing
    was measured.
    """

    spec = SensorStream
    recipe = SensorsRecipe
    field = "sensors"
    inputs = {  # noqa: RUF012  # never changed
        "window": Input("NTC standardised, 0 where missing", "window"),
        "mask": Input("NTC 1 = measured", "sensors_mask"),
    }
    shares_field = True

    def network(self, recipe: SensorsRecipe, spec: SensorStream, vocabulary: int, features: int) -> nn.Module:
        from build_engines.modalities.sensors.network import SensorsEncoder

        return SensorsEncoder(recipe, spec.window, len(spec.channels), features)

    def messages(self, name: str, spec: SensorStream, row: SampleRow) -> Iterator[RawMessage]:
        """Of one reading a message for each value: one that is physically impossible is refused alone. Of a window one
        for each step."""
        held = row.fields.get(row.field)
        if isinstance(held, str | list) and not is_missing(held):
            for at_ns, measured in window_rows(spec, row, held):
                values = _values(spec, row, measured)
                if values:
                    yield RawMessage(name, at_ns, values)
            return
        for channel, value in _values(spec, row, row.fields.readings(row.field)).items():
            yield RawMessage(name, row.at_ns, {channel: value})

    def fitted(self, spec: SensorStream, messages: Iterable[RawMessage]) -> SensorStream:
        """Fitted to what a device would admit."""
        ranges = {channel.name: (channel.minimum, channel.maximum) for channel in spec.channels}
        return fit_channels(
            spec,
            (
                {channel: value for channel, value in message.content.items() if _within(value, ranges[channel])}
                for message in messages
            ),
        )

    def faults(self, name: str, spec: SensorStream, tagged: bool) -> dict[str, Fault]:
        return reading_faults(name, spec)


def _values(spec: SensorStream, row: SampleRow, measured: Mapping[str, Any]) -> dict[str, float]:
    """What the stream's channels measured."""
    values = {}
    for channel in spec.channels:
        field = column_named(channel.name, measured)
        value = None if field is None else _number(row, channel.name, measured[field])
        if value is not None:
            values[channel.name] = value
    return values


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _number(row: SampleRow, channel: str, value: Any) -> float | None:
    """What a channel's value counts as; None where there is none."""
    words = row.categories.get(channel, {})
    if str(value) in words:
        return words[str(value)]
    if is_missing(value):
        return None
    if words:
        choices = f"dataset.categories.{channel} knows {', '.join(words)}"
        raise row.fields.wrong(f"{row.field}.{channel} is {value!r}; {choices}")
    return row.fields.number(f"{row.field}.{channel}", value)


def fit_channels(spec: SensorStream, rows: Iterable[Mapping[str, float]]) -> SensorStream:
    """`spec` with each channel's mean and deviation over `rows` (a row may lack channels)."""
    seen = {channel.name: Thinned() for channel in spec.channels}
    for row in rows:
        for name, value in row.items():
            if name in seen:
                seen[name].put(np.array([value]))
    fitted = []
    for channel in spec.channels:
        values = seen[channel.name].values()
        if values.size == 0:
            raise UserError(f"data: the training split has no value of the channel {channel.name!r}")
        # A channel that never moves in training has no scale of its own; 1 keeps it finite.
        std = float(values.std()) or 1.0
        fitted.append(msgspec.structs.replace(channel, mean=round(float(values.mean()), 6), std=round(std, 6) or 1e-6))
    return msgspec.structs.replace(spec, channels=tuple(fitted))
