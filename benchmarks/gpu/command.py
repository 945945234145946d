"""`python -m benchmarks gpu`: everything that can be proven and measured on a GPU, part after part.

Each part is a process of its own with a time limit of its own: one that hangs, crashes or takes the GPU down leaves
what it had found, and the next one starts. All of them together end within ten minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu import results_page
from benchmarks.results import machine
from edge_runtime.cuda import open_cuda
from edge_runtime.errors import UserError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Part:
    """One part: the module that is run, its arguments beside --out, and its seconds at most."""

    name: str
    title: str
    module: str
    limit_s: int
    arguments: tuple[str, ...] = ()


PARTS = (
    Part("contract", "Contract of the CUDA back ends", "contract", 50, ("--timeout", "45")),
    Part("engine", "Engine code, torch computing the graphs", "engine", 90),
    Part("live", "Starts, and live at 30 Hz", "live", 130),
    Part("times", "Times", "times", 150),
    Part("memcheck", "Contract under memcheck", "contract", 50, ("--tool", "memcheck", "--timeout", "45")),
    Part("racecheck", "Stages under racecheck", "contract", 40, ("--tool", "racecheck", "--timeout", "35")),
    Part("tensorrt", "TensorRT", "tensorrt", 40),
)
"""In the order they run: what matters most first, what may take the GPU's driver to its limits last."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/gpu"), show_default=True)
@click.option("--part", "wanted", multiple=True, type=click.Choice([part.name for part in PARTS]), help="Only these.")
@click.option("--require-gpu", is_flag=True, help="Exit with code 2 where there is no usable GPU.")
@click.option("--check", is_flag=True, help="Exit with code 3 if anything that must hold does not.")
def gpu(out: Path, wanted: tuple[str, ...], require_gpu: bool, check: bool) -> None:
    """Everything that needs a GPU, each part with a time limit; without one, as far as it goes."""
    out.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "gpu": describe_gpu()}
    if isinstance(about["gpu"], str):
        click.echo(f"no CUDA GPU here: {about['gpu']}")
        click.echo("what needs none is done")
    ended: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        if not wanted or part.name in wanted:
            ended[part.name] = run_part(part, out)
            results_page.write(out, about, {one.name: one.title for one in PARTS}, ended)
    failed = results_page.failures(out, ended)
    click.echo(f"{out / 'gpu.md'}: {len(failed)} of what must hold does not")
    for line in failed:
        click.echo(f"  {line}")
    if require_gpu and isinstance(about["gpu"], str):
        raise UserError(f"gpu: nothing ran on a GPU ({about['gpu']})")
    if check and failed:
        from edge_runtime.errors import GateRefused

        raise GateRefused(f"gpu: {len(failed)} of what must hold does not; see {out / 'gpu.md'}")


def run_part(part: Part, out: Path, limit_s: float | None = None) -> dict[str, Any]:
    """Run one part to its end or its limit, its output passed on line by line; how it ended."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{part.module}", "--out", str(out), *part.arguments]
    limit = part.limit_s if limit_s is None else limit_s
    click.echo(f"== {part.title} (at most {limit:g} s)")
    (out / f"{part.name}.json").unlink(missing_ok=True)
    start = time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            end_group(process)
            code = None
    seconds = time.monotonic() - start
    how = "past its time limit" if code is None else "done" if code == 0 else f"ended with {code}"
    click.echo(f"   {how} after {seconds:.1f} s")
    if code not in {0, None}:
        click.echo("   " + _last_line(out / f"{part.name}.log"))
    return {"seconds": round(seconds, 1), "limit_s": limit, "how": how, "last": _last_line(out / f"{part.name}.log")}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part with all that it started."""
    import os
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def describe_gpu() -> dict[str, Any] | str:
    """Name, compute capability, memory and driver of the GPU, or why there is none."""
    command = [sys.executable, "-c", "import benchmarks.gpu.command as c; c.print_gpu()"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    answer: dict[str, Any] | str = json.loads(result.stdout.splitlines()[-1]) if result.stdout else result.stderr[-300:]
    return answer


def print_gpu() -> None:
    """In a process of its own, so that this one keeps no context: one JSON line."""
    from dataclasses import asdict

    try:
        with open_cuda() as device:
            print(json.dumps(asdict(device.info())))
    except UserError as error:
        print(json.dumps(str(error)))


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
