"""What a model costs: bytes of its graphs, and milliseconds of its stages on this machine and on others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from build_engines.recipe import BudgetRecipe
from edge_runtime.bundle import Bundle
from edge_runtime.infer import ON_CPU, open_backend
from edge_runtime.infer.timing import graphs_of, median_ms, read_times

COST = "report/cost.json"


class Cost(Struct, frozen=True):
    """`cost.json`."""

    bytes: dict[str, int]
    """Stage to the size of its graph in the plan's precision."""
    ms: dict[str, float]
    """Stage to its median time here in FP32, one thread."""
    targets: dict[str, float] = {}
    """Machine to the milliseconds that it measured for all stages together, of those that the budget names."""

    @property
    def words(self) -> str:
        stages = ", ".join(
            f"{name} {self.ms[name]:.2f} ms and {size / 1e6:.2f} MB" for name, size in self.bytes.items()
        )
        total = f"{sum(self.ms.values()):.2f} ms, {sum(self.bytes.values()) / 1e6:.2f} MB"
        elsewhere = "".join(f"; {name} {ms:.2f} ms" for name, ms in self.targets.items())
        return f"{stages}; together {total} (times: FP32 on this machine's CPU, one thread){elsewhere}"


class Unmeasured(NamedTuple):
    """A machine that has not yet timed the graphs that are to ship."""

    target: str
    why: str


def measure(bundle: Bundle, plan: Mapping[str, str], targets: Mapping[str, float] | None = None) -> Cost:
    """The cost of `bundle`, its graphs as `plan` (stage to precision) has them."""
    stages = bundle.manifest.stages
    sizes = {stage.name: len(bundle.read(stage.files[plan[stage.name]])) for stage in stages}
    names = [stage.name for stage in stages]
    with open_backend(ON_CPU) as backend:
        times = median_ms(backend, graphs_of(bundle, dict.fromkeys(names, "fp32")))
    return Cost(sizes, dict(zip(names, times, strict=True)), dict(targets or {}))


def on_targets(
    bundle: Bundle, plans: Mapping[str, Mapping[str, str]], budget: BudgetRecipe
) -> tuple[dict[str, float], list[Unmeasured]]:
    """What the machines that `budget` names took for the graphs that they would run, and the machines that have not
    timed these very graphs. `plans`: as a manifest's `precision`. Raises UserError for a file of times that cannot be
    read.
    """
    taken: dict[str, float] = {}
    unmeasured = []
    for name, target in budget.targets.items():
        path = Path(target.measured)
        if not target.measured or not path.is_file():
            unmeasured.append(Unmeasured(name, "there is no file of its times yet"))
            continue
        times = read_times(path)
        known = {(time.stage, time.sha256): time.ms for time in times.stages}
        graphs = graphs_of(bundle, plans.get(times.target, plans["default"]))
        if missing := [graph for graph in graphs if (graph.name, graph.sha256) not in known]:
            graph = missing[0]
            unmeasured.append(Unmeasured(name, f"{path.name} knows another graph of {graph.name} in {graph.precision}"))
            continue
        taken[name] = round(sum(known[graph.name, graph.sha256] for graph in graphs), 3)
    return taken, unmeasured


def over(cost: Cost, budget: BudgetRecipe) -> list[str]:
    """In words, what `cost` has beyond `budget`, each limit by its name; empty = nothing."""
    size, ms = sum(cost.bytes.values()) / 1e6, sum(cost.ms.values())
    said = []
    if budget.size_mb and size > budget.size_mb:
        said.append(f"the plan's graphs have {size:.2f} MB; budget.size_mb is {budget.size_mb:g}")
    if budget.ms and ms > budget.ms:
        said.append(f"a decision takes {ms:.2f} ms on this machine; budget.ms is {budget.ms:g}")
    for name, taken in cost.targets.items():
        most = budget.targets[name].ms
        if taken > most:
            said.append(f"a decision takes {taken:.2f} ms on {name}; budget.targets.{name}.ms is {most:g}")
    return said
