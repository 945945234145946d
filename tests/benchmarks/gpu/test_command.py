"""Parts with time limits: whatever one of them does, what was found stays, and the next one runs."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import command, results_page
from benchmarks.gpu.command import PARTS, Part, run_part
from benchmarks.gpu.findings import Findings


def test_all_parts_together_end_within_ten_minutes() -> None:
    assert sum(part.limit_s for part in PARTS) <= 570


def write_part(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> Part:
    """A part of its own, found where the runner looks for parts."""
    package = folder / "benchmarks" / "gpu"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    head = "import sys, time, os, subprocess\nfrom pathlib import Path\nfrom real.findings import Findings\n"
    (package / "trial.py").write_text(head + f"found = Findings(Path(sys.argv[2]), 'trial')\n{body}\n")
    (folder / "real").symlink_to(Path(command.__file__).parent)
    monkeypatch.setattr(command, "ROOT", folder)
    return Part("trial", "A trial", "trial", 20)


def test_a_part_past_its_limit_is_ended_with_all_it_started_and_its_findings_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    body = "found.figure('first', 1)\nchild = subprocess.Popen(['sleep', '600'])\nfound.figure('child', child.pid)\n"
    part = write_part(monkeypatch, tmp_path / "root", body + "time.sleep(600)")
    told = run_part(part, out, limit_s=8)
    assert told["how"] == "past its time limit"
    figures = json.loads((out / "trial.json").read_text())["figures"]
    assert figures["first"] == 1
    deadline = time.monotonic() + 20
    while Path(f"/proc/{figures['child']}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{figures['child']}/stat").read_text().split()[2]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{figures['child']}").exists()


@pytest.mark.parametrize(("body", "code"), [("os.abort()", -6), ("raise SystemExit(3)", 3)])
def test_a_part_that_crashes_is_a_failure_and_its_findings_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, code: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    part = write_part(monkeypatch, tmp_path / "root", f"found.check('one', True)\nprint('last words')\n{body}")
    told = run_part(part, out)
    assert told["how"] == f"ended with {code}"
    (line,) = results_page.failures(out, {"trial": told})
    assert line.startswith(f"trial: ended with {code}: ")
    assert json.loads((out / "trial.json").read_text())["checks"] == [{"name": "one", "holds": True, "detail": ""}]


def test_the_page_names_what_does_not_hold_and_what_could_not_be_found_out(tmp_path: Path) -> None:
    findings = Findings(tmp_path, "times")
    findings.check("steady", False, "1.50, at most 1.05")
    findings.check("correct", True)
    findings.miss("pycuda: not here")
    findings.figure("live 30 Hz, vehicle, ms [p50, p99, max]", {"cpu": [1.0, 2.0, 3.0], "cuda-python": [0.5, 1.0, 2.0]})
    with findings.step("a step that raises"):
        raise ValueError("for a reason\nand more")
    about = {"machine": {"time": "2026-01-01", "cpu": "a CPU", "cores": 4, "python": "3.12"}, "gpu": "no driver"}
    ended = {"times": {"seconds": 1.0, "limit_s": 2, "how": "done", "last": ""}}
    results_page.write(tmp_path, about, {"times": "Times"}, ended)
    page = (tmp_path / "gpu.md").read_text()
    assert "- times: steady: 1.50, at most 1.05" in page
    assert "- times: a step that raises: ValueError: for a reason" in page
    assert "pycuda: not here" in page
    assert "| cuda-python | 0.50 | 1.00 | 2.00 |" in page
    assert "![Times](times.png)" in page
    assert (tmp_path / "times.png").stat().st_size > 5000


def test_without_a_gpu_it_says_so_and_does_the_rest(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    line = [sys.executable, "-m", "benchmarks.gpu", "--out", tmp_path, "--part", "contract", "--require-gpu"]
    result = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 2
    assert "no CUDA GPU here: " in result.stdout
    assert "error: gpu: nothing ran on a GPU (" in result.stderr
    assert "tests skipped, cuda-python" in (tmp_path / "gpu.md").read_text()
