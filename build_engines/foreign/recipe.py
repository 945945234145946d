"""The keys that say what a graph from elsewhere is fed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_runtime.streams import Positive
from edge_runtime.tensor_source import TensorSource, parse_source

NORMALISATIONS: dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    "": (1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "unit": (1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": (1 / 255, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "symmetric": (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "caffe": (1.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "none": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name to scale, mean and deviation of red, green and blue, as the frameworks' own preprocessing has them: 0 to 1;
torchvision and timm; OpenAI's CLIP; Keras' `tf` mode, -1 to 1; its `caffe` mode; 0 to 255."""


class PixelRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What an own graph expects of pictures: `(pixel * scale - mean) / std`, pixels being 0 to 255."""

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Planes first or last."""
    colour: Literal["RGB", "BGR", "GREY"] = "RGB"
    """`GREY`: one plane, 0.299 R + 0.587 G + 0.114 B, not rounded."""
    normalisation: Literal["", "unit", "imagenet", "clip", "symmetric", "caffe", "none"] = ""
    """Instead of `scale`, `mean` and `std`: 0 to 1; as torchvision and timm; as CLIP; -1 to 1; as Caffe and Keras'
    VGG and ResNet (with `colour = "BGR"`); 0 to 255."""
    scale: Positive | None = None
    """Default 1/255."""
    mean: tuple[float, ...] = ()
    """Per plane, in the order of `colour`, or one for all; default 0."""
    std: tuple[Positive, ...] = ()
    """As `mean`; default 1."""

    def problem(self) -> str | None:
        """What contradicts itself, or None."""
        planes = 1 if self.colour == "GREY" else 3
        if self.normalisation and (self.scale is not None or self.mean or self.std):
            return (
                f"pixels has normalisation = {self.normalisation!r} and scale, mean or std beside it; keep one of them"
            )
        if self.colour == "GREY" and len(set(NORMALISATIONS[self.normalisation][1])) > 1:
            return f"pixels.normalisation {self.normalisation!r} is for three planes; give the grey one's mean and std"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, planes):
                return f"pixels.{name} has {len(values)} values; {self.colour} has {planes}"
        return None

    def line(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gain and offset of each plane, [3] or [1] float32, so that the graph takes `pixel * gain + offset`."""
        scale, mean, std = NORMALISATIONS[self.normalisation]
        if self.colour == "BGR":
            mean, std = mean[::-1], std[::-1]
        planes = 1 if self.colour == "GREY" else 3
        means = np.broadcast_to(np.array(self.mean or mean[:planes], np.float64), (planes,))
        stds = np.broadcast_to(np.array(self.std or std[:planes], np.float64), (planes,))
        gain = (scale if self.scale is None else self.scale) / stds
        return gain.astype(np.float32), (-means / stds).astype(np.float32)


class OnnxInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an own graph's input comes from."""

    source: str | tuple[str, ...] = ()
    """`stream:<stream>:<field>`, `stage:<stage>:<output>` or `presence`, as in a bundle's manifest; several are stacked
    along the first axis."""
    pixels: PixelRecipe | None = None
    """For pictures: conversion put in front of the graph. Without it the graph takes uint8 NHWC BGR itself."""
    channels: tuple[str, ...] = ()
    """Of a stream of sensors: the channels that the graph takes, in its order; empty = all, in the stream's order."""
    constant: float | tuple[float, ...] | None = None
    """Instead of a source: what the input always is, one value for all of it or every value. E.g. `token_type_ids`, a
    recurrent network's first state, a picture's size."""

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """What it is made of. Raises ValueError where one is no source."""
        return (parse_source(self.source),) if isinstance(self.source, str) else tuple(map(parse_source, self.source))

    def problem(self) -> str | None:
        """What contradicts itself, or None."""
        if (self.constant is None) == (not self.source):
            return "needs either `source` or `constant`"
        if self.constant is not None and (self.pixels or self.channels):
            return "has `constant`, which goes with neither `pixels` nor `channels`"
        try:
            _ = self.sources
        except ValueError as error:
            return str(error)
        return self.pixels.problem() if self.pixels else None
