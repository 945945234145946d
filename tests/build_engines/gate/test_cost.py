"""What a bundle costs is measured, and refused beyond the recipe's budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engines.gate.cost import Cost, measure, over
from build_engines.recipe import BudgetRecipe
from edge_runtime.bundle import open_bundle

COST = Cost({"vision": 3_000_000, "fusion": 500_000}, {"vision": 8.0, "fusion": 0.5})


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (BudgetRecipe(), []),
        (BudgetRecipe(size_mb=3.5, ms=8.5), []),
        (BudgetRecipe(size_mb=3.4), ["the plan's graphs have 3.50 MB; budget.size_mb is 3.4"]),
        (BudgetRecipe(ms=8.4), ["a decision takes 8.50 ms on this machine; budget.ms is 8.4"]),
    ],
)
def test_more_than_the_budget_is_said_with_the_figure(budget: BudgetRecipe, said: list[str]) -> None:
    assert over(COST, budget) == said
    assert len(over(COST, BudgetRecipe(size_mb=1, ms=1))) == 2


def test_every_stage_is_weighed_and_timed(tiny_bundle_path: Path) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    names = {stage.name: stage.files["fp32"] for stage in bundle.manifest.stages}
    cost = measure(bundle, dict.fromkeys(names, "fp32"))
    assert cost.bytes == {name: len(bundle.read(file)) for name, file in names.items()}
    assert cost.ms.keys() == names.keys()
    assert all(ms > 0 for ms in cost.ms.values())
    assert all(f"{name} {cost.ms[name]:.2f} ms" in cost.words for name in names)
