"""The proofs of the engine code, rehearsed on the driver double: that they hold there, and that a fault shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gpu import engine
from benchmarks.gpu.findings import Findings
from edge_runtime.bundle import Bundle
from edge_runtime.cuda import CudaChoice
from tests.benchmarks.gpu.double_launcher import DoubleLauncher
from tests.cuda.double import Double

CUDA = pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])


def failures(findings: Findings) -> list[str]:
    return [f"{check['name']}: {check['detail']}" for check in findings.found["checks"] if not check["holds"]]


def test_every_shipped_graph_translated_to_torch_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    findings = Findings(tmp_path, "engine")
    engine.translation(findings)
    (rows,) = findings.found["figures"].values()
    assert len(rows) >= 20
    assert all(relative <= 1e-4 for _, _, precision, _, relative in rows if precision == "fp32")
    assert failures(findings) == []


@pytest.mark.driver_double
@CUDA
def test_all_proofs_hold_on_the_driver_double(tiny_bundle: Bundle, tmp_path: Path, cuda: CudaChoice) -> None:
    if cuda == "pycuda":
        pytest.importorskip("pycuda.driver", reason="PyCUDA is not installed")
    findings = Findings(tmp_path, "engine")
    engine.prove(tiny_bundle, cuda, DoubleLauncher, findings, decisions=20)
    assert failures(findings) == []
    assert len(findings.found["checks"]) > 18
    assert set(Double().counts().values()) == {0}


class Hasty(DoubleLauncher):
    """Computes at once instead of when the stream's turn comes: before its inputs are there."""

    def launch(self, stream: int, work: Callable[[], None]) -> None:
        work()


@pytest.mark.driver_double
def test_an_engine_that_computes_out_of_turn_fails_the_proofs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    findings = Findings(tmp_path, "engine")
    with findings.step("agreement"):
        engine.agreement(tiny_bundle, "cuda-python", Hasty, findings, ["fp32"])
    assert failures(findings)
