"""What befalls readings: too much, or not a number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from build_engines.modalities.faults import Change, Fault, each_message
from calibration.moments import RawMessage
from edge_runtime.messages import Sample
from edge_runtime.specs import SensorStream


def reading_faults(name: str, spec: SensorStream) -> dict[str, Fault]:
    """Faults of the sensor stream `name`."""
    return {
        "biased": each_message(name, lambda: _bias(spec)),
        "not a number": each_message(name, lambda: _not_a_number),
    }


def _bias(spec: SensorStream) -> Change:
    """Every channel reads one deviation too much, as far as its range goes."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        values = _values(raw)
        for channel in spec.channels:
            if channel.name in values:
                values[channel.name] = min(channel.maximum, values[channel.name] + channel.std)
        return replace(raw, held=values)

    return change


def _not_a_number(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
    return replace(raw, held=dict.fromkeys(_values(raw), float("nan")))


def _values(raw: RawMessage) -> dict[str, float]:
    return dict(raw.content.values if isinstance(raw.content, Sample) else raw.content)
