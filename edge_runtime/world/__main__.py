"""`python -m edge_runtime.world drive | record | picture`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from edge_runtime.errors import UserError
from edge_runtime.world.buses import BusLink
from edge_runtime.world.drive import MODALITIES, Plan
from edge_runtime.world.drive import drive as run_drive
from edge_runtime.world.record import record as run_record
from edge_runtime.world.sheet import write_sheet

_SPLITS = click.Choice(["train", "val"])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A small closed-loop town to drive in by published decisions."""


@main.command()
@click.option("--inputs", default="tcp://127.0.0.1:5561", show_default=True, help="Where the runtime takes inputs.")
@click.option("--decisions", default="tcp://127.0.0.1:5560", show_default=True, help="Where decisions are published.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Town, traffic, weather, route.")
@click.option("--duration", default=75.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
@click.option("--unplug", multiple=True, type=click.Choice(MODALITIES), help="Stop sending this; may be repeated.")
@click.option("--unplug-at", default=20.0, show_default=True, type=click.FloatRange(0), help="Seconds into the drive.")
@click.option("--score", type=click.Path(dir_okay=False, path_type=Path), help="Write the score (JSON) here.")
@click.option("--phrasings", default="train", show_default=True, type=_SPLITS, help="Which sentences are said.")
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="This client's file of keys.")
@click.option(
    "--can", type=click.Path(path_type=Path), help="Unix socket for motion and ranges, as frames of Linux, by town.dbc."
)
@click.option("--gnss", type=(str, int), metavar="HOST PORT", help="Where the position goes, as NMEA over UDP.")
def drive(
    inputs: str,
    decisions: str,
    seed: int,
    duration: float,
    unplug: tuple[str, ...],
    unplug_at: float,
    score: Path | None,
    phrasings: Literal["train", "val"],
    keys: Path | None,
    can: Path | None,
    gnss: tuple[str, int] | None,
) -> None:
    """Drive by the decisions that come, in real time; SIGTERM ends it and keeps the score."""
    plan = Plan(inputs, decisions, seed, duration, frozenset(unplug), unplug_at, score, phrasings, keys)
    if can is None and gnss is None:
        run_drive(plan)
    elif can is None or gnss is None:
        raise click.UsageError("--can and --gnss go together")
    else:
        run_drive(plan, lambda plan: BusLink(plan.inputs, plan.decisions, can, gnss, plan.keys))


@main.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--split", default="train", show_default=True, type=_SPLITS)
@click.option("--episodes", default=48, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=75.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Counts within the split.")
@click.option("--camera-hz", default=3.0, show_default=True, type=click.FloatRange(0.1, 30.0))
@click.option("--learner", type=click.Path(path_type=Path), help="Bundle that drives while the expert only labels.")
def record(
    out: Path,
    split: Literal["train", "val"],
    episodes: int,
    seconds: float,
    seed: int,
    camera_hz: float,
    learner: Path | None,
) -> None:
    """Record labelled drives, faster than real time."""
    summary = run_record(out, split, episodes, seconds, seed, camera_hz, learner)
    Console(stderr=True).print(summary)


@main.command()
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Picture file to write.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
def picture(out: Path, seed: int) -> None:
    """Draw a contact sheet of telling moments."""
    write_sheet(seed, out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
