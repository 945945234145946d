"""The keys of `[gate]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from build_engines.bounds import Fraction


class GateRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle must reach on the evaluation split; below it the build is refused."""

    accuracy: Fraction = 0.0
    """Of the decisions in FP32, policy included."""
    macro_f1: Fraction = 0.0
    """Macro-averaged F1 of the labels in FP32."""
    macro_f1_ratio: Annotated[float, Meta(ge=1e-12, le=1)] = 0.99
    """A reduced precision keeps at least this part of FP32's macro-F1."""
    class_drop: Fraction = 0.03
    """No class's F1 falls by more than this."""
    min_gain: Fraction = 0.05
    """The plan's graphs are smaller than FP32's by at least this part."""
    mae_ratio: Annotated[float, Meta(ge=1)] = 1.05
    """In a reduced precision no value's mean absolute error is more than this many times FP32's..."""
    mae_slack: Fraction = 0.001
    """... but for this part of the value's range, which may always be lost."""
    nmae: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Of a regression head in FP32: mean absolute error over the range, averaged over the values; at most this."""
    ap: Fraction = 0.0
    """Of a detection head in FP32: average precision over overlaps of 0.5 to 0.95 and over the classes, at least this.
    A reduced precision keeps `macro_f1_ratio` of it, and no class's falls by more than `class_drop`."""
    agreement: Fraction = 0.05
    """On a GPU, no output of a stage and no logit is further from ONNX Runtime's than this part of the largest one.
    One step of INT8 is 0.8 %, and a value on the edge of two steps may fall to either side."""
    fallback: bool = True
    """Where the chosen plan is refused, give stages back their precision until it passes, and say so; else refuse."""


PLAIN_GATE = GateRecipe()
"""Where a recipe says nothing."""
