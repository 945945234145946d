"""The table of modalities: a row each. The kinds of streams on the device are in `edge_runtime.streams`."""

from __future__ import annotations

from build_engines.modalities.audio import Audio
from build_engines.modalities.modality import AnyModality, EncoderRecipe
from build_engines.modalities.sensors import Sensors
from build_engines.modalities.text import Text
from build_engines.modalities.vision import Vision
from edge_runtime.kinds.kind import Field
from edge_runtime.streams import StreamSpec, kind_of

MODALITIES: dict[str, AnyModality] = {"vision": Vision(), "text": Text(), "sensors": Sensors(), "audio": Audio()}
"""Name of the encoder's stage, and of its keys in `[model]`, to its row; in the order of the presence mask. To add one:
its row here, and its keys in `ModelRecipe`."""

_by_spec = {row.spec: row for row in MODALITIES.values()}
_by_keys = {row.recipe: row for row in MODALITIES.values()}


def modality_of(spec: StreamSpec) -> AnyModality:
    """The row of a stream's kind."""
    return _by_spec[type(spec)]


def modality_of_encoder(keys: EncoderRecipe) -> AnyModality:
    """The row of an encoder's keys."""
    return _by_keys[type(keys)]  # type: ignore[index]  # all keys are structs


def encoder_fields(spec: StreamSpec) -> dict[str, Field]:
    """The fields of such a stream that the modality's encoder reads; graphs from elsewhere may read others too."""
    inputs = modality_of(spec).inputs
    return {name: field for name, field in kind_of(spec).fields(spec).items() if name in inputs}
