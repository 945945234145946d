"""The contract tests of both CUDA back ends on the real driver, alone and under NVIDIA's compute-sanitizer.

python -m benchmarks.gpu.contract --out DIR [--tool memcheck|racecheck]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.gpu.findings import Findings
from edge_runtime.errors import UserError

ROOT = Path(__file__).parents[2]
TESTS = "tests/cuda"
GPU_VARIANTS = "cuda-python-gpu or pycuda-gpu"
"""The tests' identifiers on a GPU; those of the driver double run everywhere else."""
SANITIZER_ERRORS = 97
TOOLS = {
    # Tests provoke errors of the driver on purpose (no memory, unknown devices): only accesses and leaks are judged.
    "memcheck": ["--tool", "memcheck", "--report-api-errors", "no", "--leak-check", "full"],
    "racecheck": ["--tool", "racecheck"],
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--tool", type=click.Choice(list(TOOLS)), help="Run under this tool of compute-sanitizer.")
@click.option("--timeout", default=150, show_default=True, type=click.IntRange(1), help="Seconds.")
def main(out: Path, tool: str | None, timeout: int) -> None:
    """Run the contract tests' GPU variants and count what came of them."""
    findings = Findings(out, tool or "contract")
    prefix: list[str] = []
    if tool is not None:
        sanitizer = find_sanitizer()
        if sanitizer is None:
            findings.miss(f"{tool}: compute-sanitizer is not on the PATH nor below /usr/local/cuda/bin")
            return
        options = ["--target-processes", "application-only", "--error-exitcode", str(SANITIZER_ERRORS)]
        prefix = [sanitizer, *TOOLS[tool], *options]
    work = racecheck_work(findings) if tool == "racecheck" else None
    run(findings, prefix, timeout, work)


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is."""
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def racecheck_work(findings: Findings) -> list[str]:
    """Races are between kernels' threads, and our copies have none: what is looked at is torch on our streams."""
    findings.figure("what runs", "every stage of the home bundle, FP32, with graphs and without")
    return ["-m", "benchmarks.gpu.smoke"]


def run(findings: Findings, prefix: Sequence[str], timeout: int, work: Sequence[str] | None = None) -> None:
    """Run the tests (or `work`) behind `prefix`, and keep counts, failures and what the sanitizer sums up."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-contract-") as folder:
        report = Path(folder) / "report.xml"
        tests = ["-m", "pytest", TESTS, "-k", GPU_VARIANTS, "-p", "no:cacheprovider", "-q", f"--junitxml={report}"]
        line = [*prefix, sys.executable, *(work or [*tests, "--timeout=60"])]
        try:
            result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            findings.miss(f"not done within {timeout} s")
            return
        if work is None:
            if not report.is_file():
                raise UserError(f"contract: pytest gave no report: {_last(result.stdout + result.stderr)}")
            judge(findings, report)
        elif result.returncode not in {0, SANITIZER_ERRORS}:
            findings.check("it ran to its end", False, _last(result.stdout + result.stderr))
    if prefix:
        sums = re.findall(r"(?:ERROR SUMMARY|LEAK SUMMARY|RACECHECK SUMMARY): (.*)", result.stdout + result.stderr)
        findings.figure("sanitizer", sums)
        found = re.findall(r"^========= (?!COMPUTE)(.*)$", result.stdout + result.stderr, re.MULTILINE)
        findings.figure("first words", found[:12])
        findings.check(
            "the sanitizer finds nothing", bool(sums) and result.returncode != SANITIZER_ERRORS, "; ".join(sums)
        )


def judge(findings: Findings, report: Path) -> None:
    """Count a JUnit report's tests by back end; failures and reasons for skipping in words."""
    counts: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for case in ET.parse(report).getroot().iter("testcase"):
        name = case.get("name") or ""
        backend = next((one for one in ("cuda-python", "pycuda") if f"{one}-gpu" in name), "other")
        problem = next((item for item in case if item.tag in {"failure", "error"}), None)
        skipped = case.find("skipped")
        outcome = "failed" if problem is not None else "skipped" if skipped is not None else "passed"
        counts.setdefault(backend, Counter())[outcome] += 1
        if skipped is not None:
            reasons[f"{backend}: {skipped.get('message')}"] += 1
        if problem is not None:
            findings.check(f"{backend}: {case.get('classname')}.{name}", False, _last(problem.text or ""))
    findings.figure("tests", {name: dict(counter) for name, counter in sorted(counts.items())})
    for reason, count in reasons.items():
        findings.miss(f"{count} tests skipped, {reason}")
    for backend, counter in counts.items():
        if counter["passed"]:
            findings.check(f"{backend}: contract tests", not counter["failed"], f"{counter['passed']} passed")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith("E ")]
    return " ".join((marked or lines[-1:] or ["no output"])[0].split())[:300]


if __name__ == "__main__":
    main()
