"""The keys of `[budget]`."""

from __future__ import annotations

from msgspec import Struct

from build_engines.bounds import NotNegative


class BudgetRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model may cost; a build that costs more is refused with the figure. 0 = no limit."""

    size_mb: NotNegative = 0.0
    """Of the plan's graphs together, in millions of bytes."""
    ms: NotNegative = 0.0
    """Of a decision for which every stage runs, on this machine: the sum of the stages' median times in FP32, on one
    thread of the CPU, each by itself."""
