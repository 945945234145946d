"""Capture to subscriber beside the script that a user would write, alternating in one run, at any picture size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.results import Judged, Machine, budgets, tell, write_results
from benchmarks.variants import (
    METHOD,
    RECORDING,
    SAME,
    STAGED,
    USER,
    Rig,
    figures_of,
    measure,
    parts_table,
    plot,
    table,
)
from benchmarks.workload import DEFAULT_PICTURES, size_of


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option(
    "--pictures",
    multiple=True,
    default=(DEFAULT_PICTURES,),
    show_default=True,
    help="WIDTHxHEIGHT for JPEG, WIDTHxHEIGHT-raw for decoded ones; may be given several times.",
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/latency"), show_default=True
)
@click.option("--record", is_flag=True, help="Also measure the staged runtime while it records to disk.")
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def latency(
    bundle: str, pictures: tuple[str, ...], rounds: int, seconds: float, out: Path, record: bool, check: bool
) -> None:
    """Capture to subscriber beside the script that a user would write, at any picture size."""
    for size in pictures:
        size_of(size)
    machine = Machine()
    with Rig(bundle) as rig:
        variants = {USER: rig.user, SAME: rig.same, STAGED: rig.staged}
        if record:
            variants[RECORDING] = rig.recording
        measured = measure(variants, pictures, rounds, seconds)
    figures = {size: figures_of(found) for size, found in measured.items()}
    for size, found in measured.items():
        Console(width=120).print(table(size, found))
        Console(width=120).print(parts_table(size, found))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "rounds": rounds, "seconds": seconds}
    write_results(out, "latency", {"method": METHOD, "pictures": figures}, plot(measured), machine, settings)
    tell([line for size in figures for line in judged(size, figures[size], machine.quiet)], check)


def judged(size: str, figures: dict[str, Any], quiet: bool) -> list[Judged]:
    """One picture size's variants beside their limits. Only a `quiet` machine is held to replace no frame."""
    found = []
    for name, limits in budgets()["latency"].get(size, {}).items():
        variant = figures[variant_of(name)]
        for figure, limit in limits.items():
            busy = "" if quiet or figure != "replaced" else "the machine was busy"
            found.append(Judged(f"{size}, {name}: {figure}", float(variant[figure]), limit, busy))
    return found


def variant_of(name: str) -> str:
    """The variant that `budgets.toml` calls `name`."""
    return "runtime, " + name.replace("-", " ")
