"""The keys of `[budget]`."""

from __future__ import annotations

from msgspec import Struct

from build_engines.bounds import NotNegative
from edge_runtime.streams import Name, Positive


class TargetBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model may take on another machine, by a name of your own, e.g. `[budget.targets.orin]`. Without that
    machine's times of the very graphs that are to ship, the build is refused, and says what to run there."""

    ms: Positive
    """Of a decision for which every stage runs: the sum of the stages' median times there."""
    measured: str = ""
    """What `edge-runtime bundle time --out` wrote on that machine; relative to the recipe."""


class BudgetRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model may cost; a build that costs more is refused with the figure. 0 = no limit."""

    size_mb: NotNegative = 0.0
    """Of the plan's graphs together, in millions of bytes."""
    ms: NotNegative = 0.0
    """Of a decision for which every stage runs, on this machine: the sum of the stages' median times in FP32, on one
    thread of the CPU."""
    targets: dict[Name, TargetBudget] = {}
    """Other machines, by name."""
