"""The keys of `[model.audio]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from build_engines.bounds import Fraction, NotNegative
from edge_runtime.specs import Count


class AudioRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """A convolutional encoder of a window of log-mel frames."""

    stream: str
    """The stream that it reads."""
    widths: tuple[Count, ...] = (16, 32, 48)
    """Channels after each halving of time and frequency."""
    dropout: Fraction = 0.2
    """Share of features that is dropped while training."""
    noise: NotNegative = 0.0
    """Deviation of the noise added to standardised frames while training."""
    gain: NotNegative = 0.0
    """Deviation of a constant added to all frames of a window while training: a sound nearer, or further away."""
    mask: Fraction = 0.0
    """While training, hide up to this part of the bands and of the frames (SpecAugment: Park et al. 2019,
    arXiv:1904.08779)."""
    aux: dict[str, Annotated[int, Meta(ge=2)]] = {}
    """Auxiliary label (`dataset.aux`) to how many classes it has: learned from this modality alone, beside the first
    head."""
    aux_in_features: bool = False
    """Give the auxiliary labels' probabilities to the fusion, as part of the features."""

    @property
    def streams(self) -> tuple[str, ...]:
        return (self.stream,)
