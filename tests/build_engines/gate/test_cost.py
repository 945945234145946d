"""What a bundle costs is measured, and refused beyond the recipe's budget."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from build_engines.gate.cost import Cost, measure, on_targets, over
from build_engines.recipe import BudgetRecipe
from build_engines.recipe.budget import TargetBudget
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import UserError
from edge_runtime.infer import ON_CPU
from edge_runtime.infer.timing import Times, write_times
from edge_runtime.infer.timing import measure as measure_here

ORIN = {"orin": TargetBudget(ms=20.0, measured="orin.json")}
COST = Cost({"vision": 3_000_000, "fusion": 500_000}, {"vision": 8.0, "fusion": 0.5}, {"orin": 20.5})


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (BudgetRecipe(), []),
        (BudgetRecipe(size_mb=3.5, ms=8.5), []),
        (BudgetRecipe(size_mb=3.4), ["the plan's graphs have 3.50 MB; budget.size_mb is 3.4"]),
        (BudgetRecipe(ms=8.4), ["a decision takes 8.50 ms on this machine; budget.ms is 8.4"]),
        (BudgetRecipe(targets=ORIN), ["a decision takes 20.50 ms on orin; budget.targets.orin.ms is 20"]),
        (BudgetRecipe(targets={"orin": TargetBudget(ms=20.5)}), []),
    ],
)
def test_more_than_the_budget_is_said_with_the_figure(budget: BudgetRecipe, said: list[str]) -> None:
    cost = COST if budget.targets else msgspec.structs.replace(COST, targets={})
    assert over(cost, budget) == said
    assert len(over(COST, BudgetRecipe(size_mb=1, ms=1, targets=ORIN))) == 3


def test_every_stage_is_weighed_and_timed(tiny_bundle_path: Path) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    names = {stage.name: stage.files["fp32"] for stage in bundle.manifest.stages}
    cost = measure(bundle, dict.fromkeys(names, "fp32"))
    assert cost.bytes == {name: len(bundle.read(file)) for name, file in names.items()}
    assert cost.ms.keys() == names.keys()
    assert all(ms > 0 for ms in cost.ms.values())
    assert all(f"{name} {cost.ms[name]:.2f} ms" in cost.words for name in names)


def plans_of(bundle: Bundle) -> dict[str, dict[str, str]]:
    return {"default": {stage.name: "fp32" for stage in bundle.manifest.stages}}


def budget_of(folder: Path, name: str = "box.json") -> BudgetRecipe:
    return BudgetRecipe(targets={"box": TargetBudget(ms=1.0, measured=str(folder / name))})


@pytest.fixture
def here(tiny_bundle_path: Path) -> Times:
    return measure_here(open_bundle(tiny_bundle_path, allow_unsigned=True), ON_CPU)


def test_another_machine_s_times_count_for_the_graphs_that_it_ran(
    tiny_bundle_path: Path, here: Times, tmp_path: Path
) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    write_times(tmp_path / "box.json", here)
    taken, unmeasured = on_targets(bundle, plans_of(bundle), budget_of(tmp_path))
    assert taken == {"box": pytest.approx(here.ms, abs=1e-3)} and not unmeasured
    assert f"; box {taken['box']:.2f} ms" in measure(bundle, plans_of(bundle)["default"], taken).words


def test_times_of_another_graph_or_none_are_no_times(tiny_bundle_path: Path, here: Times, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    first, *rest = here.stages
    other = msgspec.structs.replace(first, sha256="0" * 64)
    write_times(tmp_path / "box.json", msgspec.structs.replace(here, stages=(other, *rest)))
    taken, unmeasured = on_targets(bundle, plans_of(bundle), budget_of(tmp_path))
    assert not taken and unmeasured == [("box", f"box.json knows another graph of {first.stage} in fp32")]
    assert on_targets(bundle, plans_of(bundle), budget_of(tmp_path, "none.json"))[1] == [
        ("box", "there is no file of its times yet")
    ]
    (tmp_path / "box.json").write_text("so quick")
    with pytest.raises(UserError, match="is not what edge-runtime bundle time --out writes"):
        on_targets(bundle, plans_of(bundle), budget_of(tmp_path))
