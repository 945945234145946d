"""A run as JSON and a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.judge import Burst, Row, Verdict

COLUMNS = ("fault", "tried", "lost", "alone", "longest silence s", "healthy after s")


def table(rows: Sequence[Row]) -> str:
    """Markdown, a row for each fault."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for row in rows:
        cells = (row.fault, row.tried, row.lost, row.alone, _seconds(row.silence_s), _seconds(row.recovery_s))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path, verdict: Verdict, bursts: Sequence[Burst], machine: Mapping[str, Any]) -> None:
    """`chaos.json` and `chaos.md` in `folder`."""
    told = dict(machine) | {
        "processes": verdict.lives,
        "decisions": f"{verdict.decisions:,}, {verdict.by_model:,} of them by the model",
        "messages": ", ".join(f"{verdict.counted[name]:,} of {sent:,} {name}" for name, sent in verdict.sent.items()),
        "longest silence": f"{verdict.longest_silence_s:.1f} s",
        "promises broken": len(verdict.broken),
    }
    content = {"machine": dict(machine), "verdict": asdict(verdict), "bursts": [asdict(burst) for burst in bursts]}
    (folder / "chaos.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [f"- {key}: {value}" for key, value in told.items()]
    broken = [f"- BROKEN: {words}" for words in verdict.broken]
    (folder / "chaos.md").write_text("\n".join([*lines, *broken, "", table(verdict.rows)]), encoding="utf-8")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
