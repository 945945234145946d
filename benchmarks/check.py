"""The short form of every benchmark that has a budget, in one run, against `budgets.toml`: at most eight minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from msgspec import Struct
from rich.console import Console

from benchmarks import cameras, cold, latency, overload, subscribers, variants
from benchmarks.results import Judged, Machine, budgets, judged_table, tell, write_results
from benchmarks.variants import SAME, STAGED, USER, Rig, Run, figures_of, measure, table
from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ

METHOD = (
    f"{variants.METHOD} Sizes are measured with the variants that have a budget only. What the other figures are is "
    "said by the benchmarks of their names, of which these are short forms."
)
ELSEWHERE = (
    "not here, they take longer: `soak` (growth of memory), `drive` (junctions, collisions) and `everything` (page, "
    "figures, MQTT and the rest on), with --check"
)


class Short(Struct, frozen=True):
    """What all parts are given."""

    bundle: str
    rounds: int
    seconds: float
    quiet: bool


def _latency(short: Short) -> list[Judged]:
    found = []
    with Rig(short.bundle) as rig:
        runs: dict[str, Run] = {USER: rig.user, SAME: rig.same, STAGED: rig.staged}
        for size, limits in budgets()["latency"].items():
            wanted = (USER, *map(latency.variant_of, limits))
            chosen = {name: run for name, run in runs.items() if name in wanted}
            measured = measure(chosen, (size,), short.rounds, short.seconds)[size]
            figures = figures_of(measured)
            Console(width=120).print(table(size, measured))
            found += latency.judged(size, figures, short.quiet)
            if size == DEFAULT_PICTURES:
                resident = budgets()["soak"]["resident_mb"]
                found.append(Judged(f"{size}, staged: resident MiB", figures[STAGED]["memory_mb"], resident))
    return found


def _cameras(short: Short) -> list[Judged]:
    heard = cameras.measure(short.bundle, DEFAULT_PICTURES, [cameras.HELD_AT], 1, 2 * short.seconds)
    return cameras.judged(cameras.figures_of(heard))


def _subscribers(short: Short) -> list[Judged]:
    return subscribers.judged(subscribers.measure(short.bundle, [1, 100], min(3, short.rounds), short.seconds))


def _cold(short: Short) -> list[Judged]:
    return cold.judged(cold.measure(short.bundle, min(3, short.rounds), pause=1.0))


def _overload(short: Short) -> list[Judged]:
    return overload.judged(overload.measure(short.bundle, DEFAULT_PICTURES, short.seconds)[0])


PARTS: dict[str, Callable[[Short], list[Judged]]] = {
    "latency": _latency,
    "cameras": _cameras,
    "subscribers": _subscribers,
    "cold": _cold,
    "overload": _overload,
}


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option("--only", multiple=True, type=click.Choice([*PARTS]), default=[*PARTS], show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/check"), show_default=True)
def check(bundle: str, rounds: int, seconds: float, only: tuple[str, ...], out: Path) -> None:
    """All that has a budget, in short; exit code 3 where one is not held."""
    machine = Machine()
    short = Short(bundle, rounds, seconds, machine.quiet)
    judged = [item for name, part in PARTS.items() if name in only for item in part(short)]
    Console(width=120).print(judged_table(judged))
    Console().print(ELSEWHERE)
    Console().print(machine.sentence())
    frames = int(seconds * FRAME_HZ)
    Console().print(f"{rounds} rounds of {frames} frames of each picture size and variant. {METHOD}")
    settings = {"bundle": bundle, "rounds": rounds, "seconds": seconds, "frames": frames, "only": sorted(only)}
    figures = {"held": all(item.held for item in judged), "figures": {item.figure: asdict(item) for item in judged}}
    write_results(out, "check", {"method": METHOD, **figures}, None, machine, settings)
    tell(judged, check=True)
