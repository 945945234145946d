"""The keys of `[model.sensors]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction, NotNegative
from edge_runtime.specs import Count


class SensorsRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """An encoder of a sensor window and its mask. Several streams of sensors have one each: `[[model.sensors]]`, once
    for each, makes the stage `sensors_<stream>`, which runs when its own stream has something new."""

    stream: str
    """The stream that it reads."""
    kind: Literal["mlp", "conv", "gru"] = "mlp"
    """Perceptron over the whole window, convolutions over time, or a recurrent network (GRU)."""
    width: Count = 64
    """Of its layers."""
    layers: Count = 1
    """How many."""
    dropout: Fraction = 0.1
    """Share of values that is dropped while training."""
    noise: NotNegative = 0.0
    """Deviation of the noise added to standardised values while training."""
    channel_dropout: Fraction = 0.0
    """Chance of hiding a channel while training."""
    bias: Fraction = 0.0
    """Chance that every channel of a window reads too much or too little by a constant of its own, drawn with a
    deviation of one: sensors that have drifted."""
    aux: dict[str, Annotated[int, Meta(ge=2)]] = {}
    """Auxiliary label (`dataset.aux`) to how many classes it has: learned from this modality alone, beside the first
    head."""
    aux_in_features: bool = False
    """Give the auxiliary labels' probabilities to the fusion, as part of the features."""

    @property
    def streams(self) -> tuple[str, ...]:
        return (self.stream,)
