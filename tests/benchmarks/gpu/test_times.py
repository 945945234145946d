"""The measurements' control flow, on the driver double: what is measured there means nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import times
from benchmarks.gpu.findings import Findings
from benchmarks.live import run_live
from benchmarks.workload import Play
from edge_runtime.bundle import Bundle
from tests.benchmarks.gpu.double_launcher import DoubleLauncher
from tests.cuda.double import Double


@pytest.mark.driver_double
def test_everything_is_measured_through_a_way_to_cuda(tiny_bundle: Bundle, tmp_path: Path) -> None:
    findings = Findings(tmp_path, "times")
    times.measure(findings, ["cuda-python"], DoubleLauncher, 50, 10, [tiny_bundle], ["fp32"])
    broken = [check for check in findings.found["checks"] if "p99/p50" not in check["name"]]  # errors of a step
    assert broken == []
    figures = json.loads((tmp_path / "times.json").read_text())["figures"]
    assert [name.partition(",")[0] for name in figures] == ["copies", "launches", "streams", "back to back"]
    copies, launches = list(figures.values())[:2]
    assert {row[1] for row in copies} >= {"up, pinned", "up, pageable", "mapped, read in place by a kernel"}
    assert {(row[1], row[2]) for row in launches} == {("fp32", "graph"), ("fp32", "enqueue")}
    assert set(Double().counts().values()) == {0}


def test_a_live_run_reaches_a_subscriber(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.live_process", "cpu"]
    heard = run_live(command, Play("shipped:vehicle", f"ipc://{tmp_path}/decisions", 60))
    assert len(heard.frames) >= 10
    assert heard.facts["lost"] == 0
    assert 0 < heard.cpu_ms < 1000
