"""A fleet's recordings: the same reports whoever makes them, how long that takes, and whether mining finds what is odd.

The recordings are short drives of the built-in town, decided by the shipped bundle while the expert drives; what the
expert says lies beside them as labels. Some are planted: a sign that nobody was trained on, a speed sensor that drifts,
a fogged lens.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.fleet_drives import BUNDLE, FIRST_SEED, PLANTED, Drive, break_some, plan, record_all
from benchmarks.fleet_loop import indexed, loop
from benchmarks.fleet_runs import run
from benchmarks.results import Machine, write_results
from build_engines.fleet.mine import WAYS, picks
from edge_runtime.errors import GateRefused

PICKS = 50
PARTS = ("same", "mining", "growth", "loop")


@click.command()
@click.option("--recordings", type=click.IntRange(20), default=200, show_default=True, help="Drives to record.")
@click.option("--seconds", type=click.FloatRange(1), default=4.0, show_default=True, help="Length of a drive.")
@click.option("--seed", type=click.IntRange(0), default=FIRST_SEED, show_default=True, help="Of the first drive.")
@click.option("--most", type=click.IntRange(20), default=2000, show_default=True, help="Recordings by links, at most.")
@click.option(
    "--engine", "engines", multiple=True, default=("local",), show_default=True, help="local, ray; repeatable."
)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="Repeatable.  [default: all]"
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/fleet"), show_default=True)
@click.option(
    "--check",
    is_flag=True,
    help="Exit with code 3 unless all files are byte for byte the same and name what is broken.",
)
def fleet(
    recordings: int, seconds: float, seed: int, most: int, engines: tuple[str, ...], parts: tuple[str, ...], out: Path,
    check: bool,
) -> None:  # fmt: skip
    """Record drives of the town once; evaluate, calibrate and compare them by one worker and by two; mine them; and
    learn from what was mined."""
    console, machine = Console(), Machine()
    drives = plan(out / "drives", recordings, seconds, seed)
    begun = time.monotonic()
    record_all(drives, console)
    made_s = time.monotonic() - begun
    break_some(out / "drives", drives)
    figures: dict[str, Any] = {"recordings": recordings, "seconds_each": seconds, "seed": seed, "recorded_in_s": made_s}
    if "same" in parts:
        figures["same"] = same(out, engines, console)
    if "mining" in parts:
        figures["mining"] = mining(out, drives, console)
    if "growth" in parts:
        figures["growth"] = growth(out, drives, most, console)
    if "loop" in parts:
        figures["loop"] = loop(out, seed, console)
    write_results(out, "fleet", figures, measured_on=machine)
    different = [name for name, equal in figures.get("same", {}).items() if not equal]
    if check and different:
        raise GateRefused(f"fleet: not as it must be: {', '.join(different)}")


def same(out: Path, engines: tuple[str, ...], console: Console) -> dict[str, bool]:
    """Whether every way of doing it gives the bytes of one local worker: evaluation, comparison, calibration, index;
    and whether what is broken is named in them."""
    ways = {"local 1": ("local", "1", False)}
    ways |= {f"{engine} 2, one of them killed": (engine, "2", True) for engine in engines}
    with ThreadPoolExecutor(len(ways)) as pool:
        written = dict(zip(ways, pool.map(lambda name: results(out, name, *ways[name]), ways), strict=True))
    first = written.pop("local 1")
    report = json.loads(first["evaluation.json"])
    found = {
        "what is broken, by name": report["cut"] == ["faulty/cut"] and [*report["left_out"]] == ["faulty/poisoned"]
    }
    console.print(f"broken: cut short {report['cut']}, left out {report['left_out']}", highlight=False)
    for name, again in written.items():
        for file, data in first.items():
            found[f"{file} by {name}"] = again[file] == data
            console.print(f"{file} by {name}: {'the same' if again[file] == data else 'OTHER'}", highlight=False)
    return found


def results(out: Path, name: str, engine: str, workers: str, kill: bool) -> dict[str, bytes]:
    """Files that the commands write, by name. `kill`: one of the workers of each."""
    folder = out / "results" / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drives = (str(out / "drives"), "--allow-unsigned", "--bundle", BUNDLE, "--engine", engine, "--workers", workers)
    judged = ("--condition", "weather", "--report", str(folder))
    run(["fleet", "evaluate", *drives, *judged], kill)
    run(["fleet", "compare", *drives, "--candidate", BUNDLE, *judged], kill)
    run(["fleet", "calibrate", *drives, "--out", str(folder / "calibration.mcap")], kill)
    run(["fleet", "index", *drives, "--out", str(folder / "index")], kill)
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def growth(out: Path, drives: list[Drive], most: int, console: Console) -> list[dict[str, Any]]:
    """Time and memory of evaluating 20, 200, 2000... recordings by two workers, links to those that there are."""
    rows = []
    table = Table(title="evaluate, two workers", title_justify="left")
    for column in ("recordings", "s", "s each", "processor s each", "peak MB, all processes", "peak MB, first process"):
        table.add_column(column, justify="right")
    count = 20
    while count <= most:
        folder = out / "links" / str(count)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number in range(count):
            path = Path(drives[number % len(drives)].path).resolve()
            for suffix in (".mcap", ".csv"):
                (folder / f"{number:05d}{suffix}").symlink_to(path.with_suffix(suffix))
        bundle = ("--bundle", BUNDLE, "--allow-unsigned", "--condition", "weather")
        ran = run(["fleet", "evaluate", str(folder), *bundle, "--workers", "2"])
        rows.append({"recordings": count, **ran._asdict(), "said": ""})
        table.add_row(
            str(count),
            f"{ran.seconds:.1f}",
            f"{ran.seconds / count:.3f}",
            f"{ran.cpu_s / count:.3f}",
            f"{ran.peak_mb:.0f}",
            f"{ran.driver_mb:.0f}",
        )
        count *= 10
    console.print(table)
    return rows


def mining(out: Path, drives: list[Drive], console: Console) -> dict[str, Any]:
    """How many of the first picks are of recordings with something planted, and how many of these are found."""
    planted = {"/".join(Path(one.path).with_suffix("").parts[-2:]): one.plant for one in drives if one.plant}
    index = indexed(out)
    figures: dict[str, Any] = {}
    for name, ways in (
        ("all ways", None),
        ("unlike vision, drifted", ("unlike vision", "drifted")),
        ("unsure", ("unsure",)),
    ):
        chosen = picks(index, "condition <> 'faulty'", PICKS, ways=ways or WAYS)
        hits = [pick.recording for pick in chosen if pick.recording in planted]
        found = {kind: len({hit for hit in hits if planted[hit] == kind}) for kind in PLANTED}
        figures[name] = {
            "picks": len(chosen), "precision": len(hits) / max(1, len(chosen)),
            "recall": sum(found.values()) / max(1, len(planted)), "found": found,
            "planted": dict(Counter(planted.values())),
        }  # fmt: skip
        console.print(f"mining by {name}: {json.dumps(figures[name])}", highlight=False)
    return figures
