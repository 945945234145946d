"""Where benchmarks keep what they found."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

import edge_runtime
from edge_runtime.errors import GateRefused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def budgets() -> dict[str, Any]:
    """`budgets.toml`."""
    loaded: dict[str, Any] = tomllib.loads((Path(__file__).parent / "budgets.toml").read_text(encoding="utf-8"))
    return loaded


PACKAGES = ("onnxruntime", "numpy", "opencv-python-headless", "simplejpeg", "pyzmq", "msgspec")
"""Whose versions change what is measured."""
QUIET_LOAD = 0.25
"""Processes waiting or running per core, over the last minute, up to which a machine counts as quiet."""


@dataclass(frozen=True)
class Judged:
    """A figure beside its limit in `budgets.toml`."""

    figure: str
    value: float
    limit: float
    """The most that is allowed."""
    unless: str = ""
    """Why it is not held to its limit this time: something that the budget presupposes is not so."""

    @property
    def held(self) -> bool:
        return self.value <= self.limit or bool(self.unless)

    def __str__(self) -> str:
        return f"{self.figure}: {self.value:.2f} > {self.limit:.2f}"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "governor": _governor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "edge_runtime": edge_runtime.__version__,
    }


class Machine:
    """The machine of one run: made before it, asked after it."""

    def __init__(self) -> None:
        self._load_before = os.getloadavg()[0]
        self.quiet = self._load_before <= QUIET_LOAD * len(os.sched_getaffinity(0))
        """Whether little else ran before."""

    def provenance(self) -> dict[str, Any]:
        """`machine()`, and how busy it was before (over a minute) and at the end."""
        load = {"load_before": self._load_before, "load_after": os.getloadavg()[0], "quiet": self.quiet}
        return machine() | load

    def sentence(self) -> str:
        """The same for people."""
        found = self.provenance()
        versions = ", ".join(f"{package} {found[package]}" for package in PACKAGES)
        text = (
            f"{found['cpu']}, {found['cores']} cores, governor {found['governor']}, Linux {found['kernel']}, Python "
            f"{found['python']}, {versions}, load {found['load_before']:.2f} before, {found['load_after']:.2f} after"
        )
        return text if found["quiet"] else f"{text}. The machine was not quiet before: take ratios only, and with care."


def tell(judged: Sequence[Judged], check: bool) -> None:
    """Say what is over its budget, a line each; raise GateRefused for it where it is to be checked."""
    broken = [str(item) for item in judged if not item.held]
    for line in broken:
        Console(stderr=True).print(f"[red]over budget[/] {line}")
    if check and broken:
        raise GateRefused("; ".join(broken))


def figure_table(title: str, figures: dict[str, Any]) -> Table:
    """Name and value, a row each."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    return table


def progress(steps: Sequence[T], name: Callable[[T], str]) -> Iterator[T]:
    """Give the steps; tell of each as it begins: a bar at a terminal, else a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(steps, "rounds", console=console)
        return
    for number, step in enumerate(steps, 1):
        print(f"{number} of {len(steps)}: {name(step)}", file=sys.stderr, flush=True)
        yield step


def judged_table(judged: Sequence[Judged]) -> Table:
    """Every figure beside its limit."""
    table = Table(title="budgets", title_justify="left")
    for column in ("figure", "measured", "at most", "of it", "held"):
        table.add_column(column, justify="left" if column in ("figure", "held") else "right")
    for item in judged:
        share = f"{item.value / item.limit:.0%}" if item.limit else ""
        held = item.unless or ("yes" if item.held else "[red]no[/]")
        table.add_row(item.figure, f"{item.value:.2f}", f"{item.limit:.2f}", share, held)
    return table


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV comes under several names
        return "unknown"


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(
    out: Path,
    name: str,
    figures: dict[str, Any],
    plot: Any = None,
    measured_on: Machine | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write NAME.json and, if given, NAME.png into `out`. Beside the figures stand the machine, and the `settings` by
    which `compare` knows whether another run did the same: pictures, frames, rounds.
    """
    out.mkdir(parents=True, exist_ok=True)
    where = machine() if measured_on is None else measured_on.provenance()
    found = {"benchmark": name, "machine": where, "settings": settings or {}, **figures}
    (out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_plot(out, name, plot)


def write_plot(out: Path, name: str, plot: Any) -> None:
    """Write NAME.png into `out`, if there is a plot."""
    if plot is not None:
        out.mkdir(parents=True, exist_ok=True)
        plot.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight")
