"""Where benchmarks keep what they found."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def budgets() -> dict[str, Any]:
    """`budgets.toml`."""
    loaded: dict[str, Any] = tomllib.loads((Path(__file__).parent / "budgets.toml").read_text(encoding="utf-8"))
    return loaded


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import onnxruntime

    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(out: Path, name: str, figures: dict[str, Any], plot: Any = None) -> None:
    """Write NAME.json (figures beside the machine's description) and, if given, NAME.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", encoding="utf-8")
    write_plot(out, name, plot)


def write_plot(out: Path, name: str, plot: Any) -> None:
    """Write NAME.png into `out`, if there is a plot."""
    if plot is not None:
        out.mkdir(parents=True, exist_ok=True)
        plot.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight")
