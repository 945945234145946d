"""The keys of `[model]`: the encoders and what fuses their features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from build_engines.bounds import Fraction, NotNegative
from build_engines.modalities import MODALITIES
from build_engines.modalities.audio.recipe import AudioRecipe
from build_engines.modalities.modality import EncoderRecipe
from build_engines.modalities.sensors.recipe import SensorsRecipe
from build_engines.modalities.text.recipe import TextRecipe
from build_engines.modalities.vision.recipe import VisionRecipe
from edge_runtime.streams import Count


class FusionRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """How the features become one decision; `tagger` gives one per word of the text."""

    kind: Literal["concat", "weighted", "gated", "attention", "tagger"]
    """How features of all streams become one: side by side, as a weighted average, with learned gates, by attention,
    or word by word."""
    width: Count = 128
    """Of the hidden layer."""
    heads: Count = 4
    """Of the attention."""
    dropout: Fraction = 0.1
    """Share of the hidden layer's values that is dropped while training."""
    weights: dict[str, NotNegative] = {}
    """For kind `weighted`: stream to its weight, fixed instead of learned; `build-engines compare` chooses them by
    cross-validation."""


class ModelRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The four stages; an encoder that is left out has no stage."""

    features: Annotated[int, Meta(ge=4, le=4096)]
    """d: the length of every encoder's output."""
    fusion: FusionRecipe
    vision: VisionRecipe | None = None
    text: TextRecipe | None = None
    sensors: SensorsRecipe | tuple[SensorsRecipe, ...] | None = None
    audio: AudioRecipe | UnsetType = UNSET
    """Not written where it is not given: what is known of older models stays the same to the byte."""

    @property
    def encoders(self) -> dict[str, EncoderRecipe]:
        """Name of its stage to each encoder that is given, in the order of the presence mask."""
        return {stage: one for name in MODALITIES for stage, one in _staged(name, getattr(self, name))}

    def only(self, stage: str) -> ModelRecipe:
        """The same with no encoder but the one called `stage`."""
        absent = {field.name: field.default for field in msgspec.structs.fields(self) if field.name in MODALITIES}
        for name in MODALITIES:
            held = getattr(self, name)
            if stage in (own := dict(_staged(name, held))):
                return msgspec.structs.replace(
                    self, **absent | {name: (own[stage],) if isinstance(held, tuple) else held}
                )
        raise KeyError(stage)


def _staged(
    modality: str, held: EncoderRecipe | tuple[EncoderRecipe, ...] | None
) -> Iterator[tuple[str, EncoderRecipe]]:
    """Stage and encoder of each that a modality's keys hold."""
    if isinstance(held, tuple):
        yield from ((f"{modality}_{one.streams[0].replace('.', '_')}", one) for one in held)
    elif held:
        yield modality, held
