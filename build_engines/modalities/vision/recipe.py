"""The keys of `[model.vision]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction
from build_engines.foreign.recipe import PixelRecipe
from build_engines.pretrained.recipe import PretrainedKeys
from edge_runtime.specs import Count


class VisionRecipe(PretrainedKeys, Struct, frozen=True, forbid_unknown_fields=True):
    """A convolutional encoder, one pass per camera (a batch of cameras)."""

    streams: tuple[str, ...]
    """The cameras that it reads, one encoder for all."""
    kind: Literal["plain", "residual", "pretrained"] = "plain"
    """`plain`: one convolution per halving; `residual`: blocks with a skip connection after the first one;
    `pretrained`: a network that others trained, of `package` or `file`."""
    widths: tuple[Count, ...] = (16, 32, 64, 96)
    """Channels after each halving of the picture."""
    blocks: tuple[Count, ...] = ()
    """`residual`: blocks at each width but the first, the first block of each halving; empty = one each."""
    pool: Literal["mean", "grid"] = "mean"
    """`mean`: where in the picture does not matter; `grid`: the last map's places are kept apart."""
    depth: Annotated[int, Meta(ge=0)] = 0
    """Of a pretrained network that is known here: how many of its blocks are used; 0 = all of them. Early blocks see
    edges and where they are, late ones things."""
    pixels: PixelRecipe | None = None
    """Of a network in `file`: how it was trained to see pictures. Without it the network takes uint8 [1, height, width,
    3] BGR itself."""
    dropout: Fraction = 0.1
    """Share of features that is dropped while training."""
    aux: dict[str, Annotated[int, Meta(ge=2)]] = {}
    """Auxiliary label of this modality to its number of classes."""
    aux_in_features: bool = False
    """Let the auxiliary heads' probabilities be a part of the features."""
