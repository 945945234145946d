"""The keys of `[calibrate]`, `[quantise]` and `[compile]`: the way to a reduced precision."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction


class CalibrateRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Which moments stand for the field."""

    samples: Annotated[int, Meta(ge=8, le=100_000)] = 256
    """Moments in the calibration set."""
    split: str = "train"
    """Split of the data folder to choose from; never the one that is evaluated."""
    near_leak: Fraction = 0.02
    """At most this part of the chosen moments may be nearly, though not exactly, ones that are evaluated. The same
    view a moment later, recompressed or dimmed counts as nearly the same; one from a step further on, cropped or
    mirrored does not."""
    duplicates: Fraction = 0.02
    """Moments that are also evaluated are left out of calibration and counted. At most this part of those that
    calibration could choose from, and of those that are evaluated, may be such; more is a leak. In public collections
    of sentences several in a hundred come twice by nature."""
    recordings: tuple[str, ...] = ()
    """Recordings of live runs (`edge-runtime record`) to choose from instead of the split; paths relative to the
    recipe.
    """


RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]


class QuantiseRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Which parts may become INT8, and what losing precision may cost while the plan is chosen."""

    stages: tuple[str, ...] = ()
    """Stages that may be quantised; the others are offered in FP16 and FP32 only."""
    methods: tuple[RangeMethod, ...] = ("minmax", "percentile", "entropy", "mse")
    """How activation ranges may be chosen; the one that loses least on the task is taken, stage by stage."""
    exclude: tuple[str, ...] = ()
    """Blocks (`stage/block`, as the sensitivity table names them) that stay in FP16."""
    attention_products: bool = False
    """Quantise the products of two activations too. They lose most and gain least."""
    samples: Annotated[int, Meta(ge=16)] = 1000
    """Moments that the sensitivity pass looks at, by which the plan is chosen."""
    split: str = ""
    """Of which split they are; empty = the one that is evaluated, so that its figures flatter the plan a little.
    `train` leaves the choice to moments that are not judged."""


class CompileRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Ahead of time, for GPUs that are not here."""

    targets: tuple[Annotated[str, Meta(pattern=r"^\d+\.\d+$")], ...] = ("8.6", "8.9", "12.0")
    """Compute capabilities; empty = devices build their own engines, as Jetsons must: the compiler refuses theirs."""
    workspace_mb: Annotated[int, Meta(ge=16, le=65536)] = 256
    """Memory that the compiler may use for a layer's scratch, MiB."""
