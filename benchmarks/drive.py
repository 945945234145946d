"""Closed-loop drives: the shipped vehicle bundle over several towns, and with each input unplugged."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.results import budgets, write_results
from edge_runtime.errors import GateRefused

CONFIG = """\
name = "drive"
bundle = "{bundle}"
allow_unsigned = true
stop_at_end = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/decisions"
[[source]]
kind = "world"
bind = "ipc://{folder}/inputs"
seed = {seed}
duration_s = {seconds}
unplug = {unplug}
unplug_at_s = {unplug_at}
score = "{folder}/score.json"
"""
COLUMNS = (
    "distance_m",
    "junctions_commanded",
    "junctions_as_told",
    "red_lights_met",
    "red_lights_run",
    "collisions",
    "longest_stop_s",
    "safe_decisions",
)


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--seeds", default="1,2,3,4,5", show_default=True, help="Towns, comma-separated.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5))
@click.option("--unplug-seconds", default=40.0, show_default=True, help="Length of the drives with an input unplugged.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/drive"), show_default=True)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def drive(bundle: str, seeds: str, seconds: float, unplug_seconds: float, out: Path, check: bool) -> None:
    """Drive the built-in town in real time and score it, whole and with an input unplugged after 20 s."""
    numbers = [int(seed) for seed in seeds.split(",")]
    plan: list[tuple[str, int, float]] = [("", seed, seconds) for seed in numbers]
    plan += [(what, numbers[0], unplug_seconds) for what in ("camera", "range", "text")]
    rows = []
    for unplug, seed, length in track(plan, "drives", console=Console(stderr=True)):
        rows.append({"unplugged": unplug, **one_drive(bundle, seed, length, unplug)})
    whole = [row for row in rows if not row["unplugged"]]
    commanded = sum(row["junctions_commanded"] for row in whole)
    figures = {
        "drives": rows,
        "junctions_as_told": sum(row["junctions_as_told"] for row in whole) / max(1, commanded),
        "junctions_commanded": commanded,
        "collisions": sum(row["collisions"] for row in whole),
        "red_lights_run": sum(row["red_lights_run"] for row in whole),
    }
    Console().print(_table(rows))
    Console().print(
        f"junctions as told {figures['junctions_as_told']:.1%} of {commanded}, collisions {figures['collisions']}, "
        f"red lights run {figures['red_lights_run']}"
    )
    write_results(out, "drive", figures)
    hold = budgets()["drive"]
    if check and (
        figures["junctions_as_told"] < hold["junctions_as_told"] or figures["collisions"] > hold["collisions"]
    ):
        raise GateRefused(f"the drives are below what budgets.toml asks: {hold}")


def one_drive(bundle: str, seed: int, seconds: float, unplug: str = "", unplug_at: float = 20.0) -> dict[str, Any]:
    """Drive once, with real processes and in real time; gives the world's score."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-drive-") as folder:
        config = Path(folder) / "drive.toml"
        config.write_text(
            CONFIG.format(
                bundle=bundle if bundle.startswith("shipped:") else Path(bundle).resolve(),
                folder=folder,
                seed=seed,
                seconds=seconds,
                unplug=json.dumps([unplug] if unplug else []),
                unplug_at=unplug_at,
            )
        )
        command = [sys.executable, "-m", "edge_runtime", "run", str(config)]
        subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
        score: dict[str, Any] = json.loads((Path(folder) / "score.json").read_text())
        return score


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="drives", title_justify="left")
    table.add_column("seed", justify="right")
    table.add_column("unplugged after 20 s")
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(str(row["seed"]), row["unplugged"], *(str(row[column]) for column in COLUMNS))
    return table
