"""The measurements' control flow, on the driver double: what is measured there means nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import times
from benchmarks.gpu.findings import Findings
from benchmarks.live import run_live
from tests.benchmarks.gpu.double_launcher import DoubleLauncher
from tests.cuda.double import Double


@pytest.mark.driver_double
def test_everything_is_measured_through_every_way_to_cuda(tmp_path: Path) -> None:
    findings = Findings(tmp_path, "times")
    times.measure(
        findings, ["cuda-python"], DoubleLauncher, launches=50, decisions=10, precisions=["fp32"]
    )  # halves are slow on a CPU
    broken = [check for check in findings.found["checks"] if "p99/p50" not in check["name"]]  # errors of a step
    assert broken == []
    figures = json.loads((tmp_path / "times.json").read_text())["figures"]
    assert len(figures) == 1 + 2 * len(times.BUNDLES) + len(times.BUNDLES)
    (copies,) = (rows for name, rows in figures.items() if name.startswith("copies"))
    assert {row[1] for row in copies} >= {"up, pinned", "up, pageable", "mapped, read in place by a kernel"}
    for name, rows in figures.items():
        if name.startswith("launches"):
            assert {(row[1], row[2]) for row in rows} == {("fp32", "graph"), ("fp32", "enqueue")}
    assert set(Double().counts().values()) == {0}


def test_a_live_run_reaches_a_subscriber(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.live_process", "cpu"]
    frames, facts = run_live(command, "shipped:vehicle", f"ipc://{tmp_path}/decisions", 60)
    assert len(frames) >= 10
    assert facts["lost"] == 0
