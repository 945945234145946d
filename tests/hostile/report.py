"""The results as JSON, a Markdown table and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.hostile.judge import Figures

COLUMNS = (
    "part",
    "messages",
    "frames/s",
    "decisions/s",
    "on them",
    "p50 ms",
    "p99 ms",
    "undisturbed p50, p99",
    "stale",
    "safe",
    "accounts",
    "peak MiB",
    "cores",
    "log lines/s",
    "verdict",
)


def table(parts: Sequence[Figures]) -> str:
    """A Markdown table, a row for each part."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    for one in parts:
        cells = (
            one.part.replace("_", " "),
            f"{one.sent:,}",
            f"{one.frames_hz:.1f}",
            f"{one.decisions_hz:.1f}",
            f"{one.honest_hz:.1f}",
            f"{one.p50:.1f}",
            f"{one.p99:.1f}",
            f"{one.undisturbed_p50:.1f}, {one.undisturbed_p99:.1f}",
            str(sum(map(len, one.stale.values()))),
            str(sum(one.safe.values())),
            "balance" if one.balanced else "NO",
            f"{one.peak_mb:.0f}",
            f"{one.cores:.2f}",
            f"{one.log_lines_s:.1f}",
            "; ".join(one.broken) or "holds",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path, parts: Sequence[Figures], machine: Mapping[str, Any]) -> None:
    """`hostile.json`, `hostile.md` and, where matplotlib is there, `hostile.png` in `folder`."""
    content = {"machine": dict(machine), "parts": [asdict(one) for one in parts]}
    (folder / "hostile.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    told = "".join(f"- {key}: {value}\n" for key, value in machine.items())
    (folder / "hostile.md").write_text(f"{told}\n{table(parts)}", encoding="utf-8")
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [one for one in parts if one.p99 < float("inf")]
    places = range(len(shown))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.3 * len(shown)))
    colours = ["tab:red" if one.broken else "tab:blue" for one in shown]
    axes.barh(places, [one.p99 for one in shown], color=colours, label="p99")
    axes.scatter([one.p50 for one in shown], places, color="black", s=12, zorder=3, label="p50")
    limits = [2 * one.undisturbed_p99 + 5 for one in shown]
    axes.scatter(limits, places, marker="|", color="tab:orange", s=120, zorder=3, label="limit")
    axes.set_yticks(places, [one.part.replace("_", " ") for one in shown])
    axes.invert_yaxis()
    axes.set(
        xlabel="capture to publish (ms), log scale", xscale="log", title="Decisions under attack (red: breaks a rule)"
    )
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "hostile.png", dpi=120)
    pyplot.close(figure)
