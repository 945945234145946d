"""What a model costs: bytes of its graphs, and milliseconds of its stages on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from msgspec import Struct

from build_engines.recipe import BudgetRecipe
from edge_runtime.bundle import Bundle, Stage
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.tensors import zeros

WARM_UPS, RUNS = 3, 15
COST = "report/cost.json"


class Cost(Struct, frozen=True):
    """`cost.json`."""

    bytes: dict[str, int]
    """Stage to the size of its graph in the plan's precision."""
    ms: dict[str, float]
    """Stage to its median time here in FP32, one thread."""

    @property
    def words(self) -> str:
        stages = ", ".join(
            f"{name} {self.ms[name]:.2f} ms and {size / 1e6:.2f} MB" for name, size in self.bytes.items()
        )
        total = f"{sum(self.ms.values()):.2f} ms, {sum(self.bytes.values()) / 1e6:.2f} MB"
        return f"{stages}; together {total} (times: FP32 on this machine's CPU, one thread)"


def measure(bundle: Bundle, plan: Mapping[str, str]) -> Cost:
    """The cost of `bundle`, its graphs as `plan` (stage to precision) has them."""
    stages = bundle.manifest.stages
    sizes = {stage.name: len(bundle.read(stage.files[plan[stage.name]])) for stage in stages}
    return Cost(sizes, {stage.name: round(_ms(bundle, stage), 3) for stage in stages})


def over(cost: Cost, budget: BudgetRecipe) -> list[str]:
    """In words, what `cost` has beyond `budget`; empty = nothing."""
    size, ms = sum(cost.bytes.values()) / 1e6, sum(cost.ms.values())
    said = []
    if budget.size_mb and size > budget.size_mb:
        said.append(f"the plan's graphs have {size:.2f} MB; budget.size_mb is {budget.size_mb:g}")
    if budget.ms and ms > budget.ms:
        said.append(f"a decision takes {ms:.2f} ms on this machine; budget.ms is {budget.ms:g}")
    return said


def _ms(bundle: Bundle, stage: Stage) -> float:
    specs = [item.spec for item in stage.inputs]
    feeds = {spec.name: zeros(spec) for spec in specs}
    with OnnxRuntimeEngine(stage.name, "fp32", bundle.read(stage.files["fp32"]), specs, stage.outputs) as engine:
        times = []
        for _ in range(WARM_UPS + RUNS):
            start = time.perf_counter_ns()
            engine.run(feeds)
            times.append(time.perf_counter_ns() - start)
    return statistics.median(times[WARM_UPS:]) / 1e6
