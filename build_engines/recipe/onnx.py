"""The keys of `[onnx]`: a model that somebody else trained."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edge_runtime.streams import Name, Positive


class PixelRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What an own graph expects of pictures: `(pixel * scale - mean) / std`, pixels being 0 to 255."""

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    colour: Literal["RGB", "BGR"] = "RGB"
    scale: Positive = 1.0 / 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per channel, in the order of `colour`."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)


class OnnxInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an own graph's input comes from."""

    source: str
    """`stream:<stream>:<field>`, `stage:<stage>:<output>` or `presence`, as in a bundle's manifest."""
    pixels: PixelRecipe | None = None
    """For pictures: conversion put in front of the graph. Without it the graph takes uint8 NHWC BGR itself."""


class OnnxStage(Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of one's own."""

    name: Name
    file: str
    """Relative to the recipe."""
    inputs: dict[str, OnnxInput]


class OnnxModel(Struct, frozen=True, forbid_unknown_fields=True):
    """A model from elsewhere: one graph, or one per stage, in the order they run."""

    stages: tuple[OnnxStage, ...]
    output: str
    """`stage:<stage>:<output>`: one value per label."""
    probabilities: bool = False
    """The output is probabilities already; their logarithm becomes the logits."""
    head: str = "softmax"
    tokenizer: str = ""
    """SentencePiece model for a text stream, relative to the recipe."""
