"""The latency benchmark: its pictures, the user's loop that it compares with, its budgets and its words."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import latency, results, variants
from benchmarks.live import SKIP, run_user_loop
from benchmarks.results import Judged, Machine, budgets, progress, tell
from benchmarks.workload import make_workload, size_of
from build_engines.model.monolith import compose_monolith, stage_graphs
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import GateRefused, UserError


def test_pictures_are_of_the_size_that_is_asked_for() -> None:
    small, large = make_workload("640x360"), make_workload("800x450-raw")
    data = small.picture(0)
    assert isinstance(data, bytes)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and decoded.shape == (360, 640, 3)
    raw = large.picture(0)
    assert isinstance(raw, np.ndarray) and raw.shape == (450, 800, 3)
    raw[:] = 0
    again = large.picture(len(large.pictures))
    assert isinstance(again, np.ndarray) and again.any(), "a camera's pictures are its own each time"
    assert small.readings == large.readings


@pytest.mark.parametrize("text", ["640", "640x", "axb", "640x360-", "640x360-jpeg"])
def test_sizes_that_are_none_are_named(text: str) -> None:
    with pytest.raises(UserError, match="expected WIDTHxHEIGHT or WIDTHxHEIGHT-raw"):
        size_of(text)


def test_the_users_loop_answers_every_frame(tmp_path: Path) -> None:
    bundle = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True)
    (tmp_path / "m.onnx").write_bytes(compose_monolith(stage_graphs(bundle)).SerializeToString())
    np.savez(tmp_path / "inputs.npz", **variants.ready_inputs(bundle))  # type: ignore[arg-type]
    endpoint = f"ipc://{tmp_path}/decisions"
    command = [sys.executable, "-m", "benchmarks.user_loop", str(tmp_path / "m.onnx"), str(tmp_path / "inputs.npz")]
    heard = run_user_loop([*command, endpoint, "50"], endpoint)
    assert len(heard.frames) == 50 - SKIP
    assert all(sum(frame) > frame[1] > 0 and frame[2] > 0 for frame in heard.frames)
    assert heard.cpu_ms > 0


def test_what_breaks_a_budget_is_named_and_what_keeps_it_is_not() -> None:
    limits = budgets()["latency"]["640x360"]
    kept = {latency.variant_of(name): dict(hold) for name, hold in limits.items()}
    assert all(item.held for item in latency.judged("640x360", kept, quiet=True))
    for name, hold in limits.items():
        for ratio, limit in hold.items():
            worse = {key: dict(value) for key, value in kept.items()}
            worse[latency.variant_of(name)][ratio] = limit + 0.02
            (broken,) = (item for item in latency.judged("640x360", worse, quiet=True) if not item.held)
            assert str(broken) == f"640x360, {name}: {ratio}: {limit + 0.02:.2f} > {limit:.2f}"
            assert "640x360, staged: replaced" not in [
                item.figure for item in latency.judged("640x360", worse, quiet=False) if not item.held
            ]
    assert latency.judged("32x32", kept, quiet=True) == []


def test_what_is_over_budget_is_told_and_refused_only_where_it_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    judged = [Judged("fine", 1.0, 1.0), Judged("slow", 3.0, 2.0), Judged("busy", 3.0, 2.0, "the machine was busy")]
    tell(judged, check=False)
    assert capsys.readouterr().err == "over budget slow: 3.00 > 2.00\n"
    with pytest.raises(GateRefused, match="^slow: 3.00 > 2.00$"):
        tell(judged, check=True)
    tell(judged[::2], check=True)


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert Machine().provenance()["quiet"] and "not quiet" not in Machine().sentence()
    monkeypatch.setattr(results.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert not Machine().provenance()["quiet"] and "not quiet" in Machine().sentence()


def test_progress_without_a_terminal_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(["a", "b"], lambda step: f"step {step}")) == ["a", "b"]
    assert capsys.readouterr().err == "1 of 2: step a\n2 of 2: step b\n"
