"""Grafana's dashboard asks for nothing that a running service does not tell."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.config import MetricsSink as MetricsRow
from edge_runtime.publish.metrics import MetricsSink
from edge_runtime.runtime import Runtime
from tests.conftest import running, tiny_config, wait_for
from tests.publish.test_metrics import at, read
from tests.test_runtime import Vehicle

FILE = Path(__file__).parents[1] / "docs" / "grafana.json"
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus adds to what it has read, and that of buckets."""
FUNCTIONS = {"sum", "min", "max", "by", "rate", "increase", "histogram_quantile", "label_values"}
BOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def scraped(tiny_bundle_path: Path) -> dict[str, set[str]]:
    """Name of each metric that a running service tells, to its labels. Not every machine has a thermometer: where this
    one has none, that metric is what the documentation says."""
    configuration = msgspec.structs.replace(tiny_config(tiny_bundle_path), metrics=MetricsRow("tcp://127.0.0.1:*"))
    labels: dict[str, set[str]] = defaultdict(set)
    with running(Runtime(configuration)) as runtime:
        vehicle = Vehicle(runtime)
        vehicle.sample(a=1.0)
        vehicle.sample(a=1e9)  # refused, so that something is dropped
        vehicle.text("go on then")
        vehicle.answer(200, "f")
        sink = next(outlet.sink for outlet in runtime._outlets if isinstance(outlet.sink, MetricsSink))

        def told() -> bool:
            dropped = frozenset({("stream", "sensors"), ("reason", "out_of_range")})
            return ("edge_runtime_dropped_total", dropped) in read(sink.endpoint)

        wait_for(told, "the status on the page")
        assert at(read(sink.endpoint), "latency_seconds_count") > 0
        for name, pairs in read(sink.endpoint):
            labels[name] |= {label for label, _ in pairs}
        vehicle.close()
    if "| `edge_runtime_temperature_celsius` | gauge |" in (FILE.parent / "metrics.md").read_text(encoding="utf-8"):
        labels.setdefault("edge_runtime_temperature_celsius", set())
    return labels


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every metric that a query names, and the labels that it selects by."""
    for name, inside in re.findall(r"\b(edge_runtime_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside or ""))


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title} {target['refId']}" for title, target in TARGETS])
def test_every_metric_and_label_of_a_query_is_in_a_scrape(
    title: str, target: dict[str, Any], scraped: dict[str, set[str]]
) -> None:
    expression = target["expr"]
    found = list(selectors(expression))
    assert found, f"{title}: names no metric"
    known: set[str] = set(OF_PROMETHEUS)
    for name, asked in found:
        assert name in scraped, f"{title}: no metric {name}"
        known |= scraped[name]
        assert asked <= scraped[name] | OF_PROMETHEUS, f"{title}: {name} has no label {asked - scraped[name]}"
        assert "instance" in asked, f"{title}: {name} is of all runtimes, whichever is chosen"
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert grouped <= known, f"{title}: grouped by {grouped - known}"
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    left = grouped or known
    assert shown <= left, f"{title}: shows {shown - left}, which the query leaves out"
    bare = re.sub(r'"[^"]*"', "", expression)
    called = set(re.findall(r"\b([a-z_]+)\s*\(", bare))
    assert called <= FUNCTIONS, called - FUNCTIONS
    assert bare.count("(") == bare.count(")") and bare.count("{") == bare.count("}")


def test_counters_are_only_looked_at_by_their_rate() -> None:
    for title, target in TARGETS:
        for name, _ in selectors(target["expr"]):
            if name.endswith(("_total", "_bucket")):
                pattern = rf"(?:rate|increase)\({name}\{{[^}}]*\}}\[\$__rate_interval\]\)"
                times = [len(re.findall(one, target["expr"])) for one in (pattern, rf"\b{name}\b")]
                assert times[0] == times[1], title


def test_every_metric_that_is_documented_is_on_the_board() -> None:
    text = (FILE.parent / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(edge_runtime_\w+)`", text, re.MULTILINE))
    asked = {name for _, target in TARGETS for name, _ in selectors(target["expr"])}
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in asked} == documented


def test_the_board_is_one_that_grafana_takes() -> None:
    assert BOARD["uid"] and BOARD["title"] and BOARD["schemaVersion"] >= 36
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables.keys() == {"source", "instance"}
    assert dict(selectors(variables["instance"]["query"]["query"])).keys() == {"edge_runtime_uptime_seconds"}
    used = set(re.findall(r"\$(\w+)|\$\{(\w+)\}", json.dumps([panel["targets"] for panel in PANELS])))
    assert {one or other for one, other in used} <= {"source", "instance", "__rate_interval"}
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    for number, one in enumerate(places):
        assert one["x"] >= 0 and one["x"] + one["w"] <= 24
        for other in places[number + 1 :]:
            apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
