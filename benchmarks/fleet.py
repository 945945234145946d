"""A fleet's recordings: the same reports whoever makes them, how long that takes, and whether mining finds what is odd.

The recordings are short drives of the built-in town, decided by the shipped bundle while the expert drives; what the
expert says lies beside them as labels. Some are planted: a sign that nobody was trained on, a speed sensor that drifts,
a fogged lens.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.offline import record
from benchmarks.results import Machine, write_results
from build_engines.fleet.index import SUMMARY
from build_engines.fleet.mine import WAYS, picks
from calibration.spread import spread
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import GateRefused
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.world import expert
from edge_runtime.world.commands import Sentence
from edge_runtime.world.record import DECISION_HZ, Nuisance
from edge_runtime.world.simulation import Sensed, Simulation
from edge_runtime.world.view import View, to_jpeg

BUNDLE = "shipped:vehicle"
FIRST_SEED = 700_000
"""Of drives, each through a town of its own, that neither training nor validation of the bundle has seen."""
START_NS = 1_000_000_000_000
CAMERA_HZ = 5
PLANTED = ("sign", "drift", "fog")
EVERY_PLANTED = 12
"""One recording in so many is planted, the kinds by turns."""
PICKS = 50
PARTS = ("same", "mining", "growth")


class Drive(NamedTuple):
    """One recording to be made."""

    path: str
    seed: int
    seconds: float
    plant: str
    """One of PLANTED, or empty."""


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
    """Record drives of the town once; evaluate, calibrate and compare them by one worker and by two; mine them."""
    console, machine = Console(), Machine()
    drives = plan(out / "drives", recordings, seconds, seed)
    begun = time.monotonic()
    for number, drive in enumerate(spread(Recording(), [one for one in drives if not done(one)], alone=2, piece=1), 1):
        console.print(f"recorded {number}: {drive}", highlight=False)
    made_s = time.monotonic() - begun
    break_some(out / "drives", drives)
    figures: dict[str, Any] = {"recordings": recordings, "seconds_each": seconds, "seed": seed, "recorded_in_s": made_s}
    if "same" in parts:
        figures["same"] = same(out, engines, console)
    if "mining" in parts:
        figures["mining"] = mining(out, drives, console)
    if "growth" in parts:
        figures["growth"] = growth(out, drives, most, console)
    write_results(out, "fleet", figures, measured_on=machine)
    different = [name for name, equal in figures.get("same", {}).items() if not equal]
    if check and different:
        raise GateRefused(f"fleet: not as it must be: {', '.join(different)}")


def plan(folder: Path, count: int, seconds: float, seed: int = FIRST_SEED) -> list[Drive]:
    """The drives, and what is planted in which."""
    drives = []
    for number in range(count):
        plant = PLANTED[number // EVERY_PLANTED % len(PLANTED)] if number % EVERY_PLANTED == 5 else ""
        drives.append(Drive(str(folder / f"car{number % 8}" / f"{number:04d}.mcap"), seed + number, seconds, plant))
    return drives


def done(drive: Drive) -> bool:
    return Path(drive.path).with_suffix(".csv").is_file()


class Recording:
    """The job of recording drives: each process opens the bundle once."""

    def __call__(self) -> Any:
        return self._all

    def _all(self, drives: Iterator[Drive]) -> Iterator[str]:
        pipeline = Pipeline(open_bundle(bundle_path(BUNDLE), allow_unsigned=True))
        for drive in drives:
            path = Path(drive.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            labels: list[tuple[float, str, str]] = []
            record(path, pipeline, START_NS, _driven(drive, labels))
            _write_labels(path, labels, drive.seconds)
            yield path.name


def _driven(drive: Drive, labels: list[tuple[float, str, str]]) -> Iterator[Message]:
    """The drive's messages; `labels` gets what was right from when on, and the condition."""
    simulation = Simulation(drive.seed, "val")
    view, nuisance = View(simulation.town, drive.seed), Nuisance(np.random.default_rng([drive.seed, 21]))
    seq: Counter[str] = Counter()
    yield from _sensed(simulation.collect(), 0.0, drive, seq)
    for step in range(round(drive.seconds * DECISION_HZ)):
        now = simulation.observe()
        right = expert.label(now)
        shown = drive.plant == "sign" and 0.3 < now.t / drive.seconds < 0.8
        labels.append((now.t, "stop" if shown else right, now.condition))
        if step % (DECISION_HZ // CAMERA_HZ) == 0:
            image = _spoilt(view.draw(simulation), drive.plant, shown)
            yield Frame("camera.front", seq["camera.front"], _at(now.t), to_jpeg(image))
            seq["camera.front"] += 1
        label = nuisance.disturb(now, right)
        for _ in range(60 // DECISION_HZ):
            yield from _sensed(simulation.step(1 / 60, label), simulation.t, drive, seq)


def _at(t_s: float) -> int:
    return START_NS + round(t_s * 1e9)


def _sensed(items: list[Sensed], t_s: float, drive: Drive, seq: Counter[str]) -> Iterator[Message]:
    for item in items:
        if isinstance(item, Sentence):
            yield Utterance("text", seq["text"], _at(t_s), item.text, item.lang)
            seq["text"] += 1
            continue
        values = dict(item.values)
        if drive.plant == "drift" and "speed_mps" in values:
            values["speed_mps"] = min(60.0, values["speed_mps"] + 3.0 * t_s)
        yield Sample(item.stream, seq[item.stream], _at(t_s), values)
        seq[item.stream] += 1


def _spoilt(image: NDArray[np.uint8], plant: str, sign: bool) -> NDArray[np.uint8]:
    if plant == "fog":
        blurred = cv2.GaussianBlur(image, (0, 0), 9.0)
        return np.asarray(cv2.addWeighted(blurred, 0.3, np.full_like(image, 190), 0.7, 0.0), np.uint8)
    if sign:
        height, width = image.shape[:2]
        middle, radius = (round(width * 0.68), round(height * 0.38)), round(height * 0.16)
        corners = [(np.cos(angle), np.sin(angle)) for angle in np.arange(8) * np.pi / 4 + np.pi / 8]
        points = np.array([[middle[0] + radius * x, middle[1] + radius * y] for x, y in corners], np.int32)
        image = image.copy()
        cv2.fillPoly(image, [points], (200, 30, 160))
        cv2.rectangle(image, (middle[0] - radius * 2 // 3, middle[1] - radius // 6),
                      (middle[0] + radius * 2 // 3, middle[1] + radius // 6), (255, 255, 255), cv2.FILLED)  # fmt: skip
    return image


def _write_labels(path: Path, labels: list[tuple[float, str, str]], seconds: float) -> None:
    rows: list[list[object]] = []
    for at, label, condition in labels:
        if rows and rows[-1][2:] == [label, condition]:
            continue
        if rows:
            rows[-1][1] = round(at, 4)
        rows.append([round(at, 4), seconds, label, condition])
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["start_s", "end_s", "label", "weather"], *rows])


def break_some(folder: Path, drives: list[Drive]) -> None:
    """Beside them, copies with faults: one cut short, one poisoned."""
    whole = Path(drives[0].path).read_bytes()
    (folder / "faulty").mkdir(exist_ok=True)
    (folder / "faulty" / "cut.mcap").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "faulty" / "poisoned.mcap").write_bytes(whole[:4000] + bytes(4000) + whole[8000:])


def same(out: Path, engines: tuple[str, ...], console: Console) -> dict[str, bool]:
    """Whether every way of doing it gives the bytes of one local worker: evaluation, comparison, calibration, index;
    and whether what is broken is named in them."""
    first = results(out, "local 1", ("--engine", "local", "--workers", "1"))
    report = json.loads(first["evaluation.json"])
    found = {
        "what is broken, by name": report["cut"] == ["faulty/cut"] and [*report["left_out"]] == ["faulty/poisoned"]
    }
    console.print(f"broken: cut short {report['cut']}, left out {report['left_out']}", highlight=False)
    for engine in engines:
        name = f"{engine} 2, one of them killed"
        again = results(out, name, ("--engine", engine, "--workers", "2"), kill=True)
        for file, data in first.items():
            found[f"{file} by {name}"] = again[file] == data
            console.print(f"{file} by {name}: {'the same' if again[file] == data else 'OTHER'}", highlight=False)
    return found


def results(out: Path, name: str, who: tuple[str, ...], kill: bool = False) -> dict[str, bytes]:
    """Files that the commands write, by name."""
    folder = out / "results" / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drives, labels = str(out / "drives"), ("--condition", "weather")
    run(["evaluate", drives, "--bundle", BUNDLE, *labels, *who, "--report", str(folder)], kill)
    run(["compare", drives, "--bundle", BUNDLE, "--candidate", BUNDLE, *labels, *who, "--report", str(folder)], kill)
    run(["calibrate", drives, "--bundle", BUNDLE, *who, "--out", str(folder / "calibration.mcap")], kill)
    run(["index", drives, "--bundle", BUNDLE, *who, "--out", str(folder / "index")], kill)
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Ran(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_s: float
    """Processor time of all its processes."""
    peak_mb: float
    """Of its processes together, resident."""
    driver_mb: float
    """Of the first of them."""
    said: str


def run(arguments: list[str], kill: bool = False) -> Ran:
    """`build-engines fleet ...`. `kill`: one of its processes is killed once it has begun."""
    command = [sys.executable, "-m", "build_engines", "fleet", *arguments, "--allow-unsigned"]
    begun, used = time.monotonic(), _children_s()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = _Watch(process.pid, kill)
    watch.start()
    said, _ = process.communicate()
    watch.over.set()
    watch.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {said[-2000:]}")
    if kill and not watch.killed:
        raise RuntimeError(f"{' '.join(command)}: there was no worker to kill")
    return Ran(time.monotonic() - begun, _children_s() - used, watch.peak / 1e6, watch.driver / 1e6, said)


def _children_s() -> float:
    """Processor time of all processes that have ended below this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Watch(threading.Thread):
    """Memory of a process and all below it, a few times a second."""

    def __init__(self, pid: int, kill: bool) -> None:
        super().__init__(daemon=True)
        self._process, self._kill = psutil.Process(pid), kill
        self.over = threading.Event()
        self.peak = self.driver = 0
        self.killed = False

    def run(self) -> None:
        while not self.over.wait(0.1):
            try:
                below = self._process.children(recursive=True)
                own = self._process.memory_info().rss
                self.driver = max(self.driver, own)
                self.peak = max(self.peak, own + sum(_resident(one) for one in below))
                if self._kill and not self.killed:
                    self._kill_one(below)
            except psutil.NoSuchProcess:
                return

    def _kill_one(self, below: list[psutil.Process]) -> None:
        """A worker that is in the middle of something: of ours, or of Ray's."""
        for one in below:
            line = " ".join(one.cmdline()[:3])
            if ("calibration.spread" in line or "_on_worker" in line) and one.cpu_times().user > 3.0:
                os.kill(one.pid, signal.SIGKILL)
                self.killed = True
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


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
        ran = run(["evaluate", str(folder), "--bundle", BUNDLE, "--condition", "weather", "--workers", "2"])
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
    index = out / "results" / "local-1" / "index"
    if not (index / SUMMARY).is_file():
        results(out, "local 1", ("--engine", "local", "--workers", "1"))
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
