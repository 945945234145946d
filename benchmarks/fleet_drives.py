"""Recordings of short drives of the built-in town, decided by the shipped bundle while the expert drives; what the
expert says lies beside them as labels. Some are planted: a sign that nobody was trained on, a speed sensor that drifts,
a fogged lens."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.offline import record
from calibration.spread import spread
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
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


class Drive(NamedTuple):
    """One recording to be made."""

    path: str
    seed: int
    seconds: float
    plant: str
    """One of PLANTED, or empty."""
    alone: bool = False
    """Only the moments are labelled at which nothing but the sign says stop."""


def plan(folder: Path, count: int, seconds: float, seed: int = FIRST_SEED) -> list[Drive]:
    """The drives, and what is planted in which."""
    drives = []
    for number in range(count):
        plant = PLANTED[number // EVERY_PLANTED % len(PLANTED)] if number % EVERY_PLANTED == 5 else ""
        drives.append(Drive(str(folder / f"car{number % 8}" / f"{number:04d}.mcap"), seed + number, seconds, plant))
    return drives


def record_all(drives: Sequence[Drive], console: Console) -> None:
    """Record those that are not there yet, by all cores."""
    missing = [drive for drive in drives if not done(drive)]
    for number, name in enumerate(spread(Recording(), missing, alone=2, piece=1), 1):
        console.print(f"recorded {number} of {len(missing)}: {name}", highlight=False)


def right_at(path: Path, t_s: float) -> str:
    """What the expert says of a recording at this time; empty where nothing."""
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        said = [row["label"] for row in csv.DictReader(file) if float(row["start_s"]) <= t_s < float(row["end_s"])]
    return said[0] if said else ""


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
    """The drive's messages; `labels` gets what was right from when on (empty: not to be judged), and the condition."""
    simulation = Simulation(drive.seed, "val")
    view, nuisance = View(simulation.town, drive.seed), Nuisance(np.random.default_rng([drive.seed, 21]))
    seq: Counter[str] = Counter()
    yield from _sensed(simulation.collect(), 0.0, drive, seq)
    for step in range(round(drive.seconds * DECISION_HZ)):
        now = simulation.observe()
        right = expert.label(now)
        shown = drive.plant == "sign" and 0.3 < now.t / drive.seconds < 0.8
        said = "stop" if shown else right
        labels.append((now.t, "" if drive.alone and said == right else said, now.condition))
        if step % (DECISION_HZ // CAMERA_HZ) == 0:
            image = spoilt(view.draw(simulation), drive.plant, shown)
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


def spoilt(image: NDArray[np.uint8], plant: str, sign: bool) -> NDArray[np.uint8]:
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
        csv.writer(file).writerows([["start_s", "end_s", "label", "weather"], *(row for row in rows if row[2])])


def break_some(folder: Path, drives: list[Drive]) -> None:
    """Beside them, copies with faults: one cut short, one poisoned."""
    if (folder / "faulty" / "poisoned.mcap").is_file():
        return
    whole = Path(drives[0].path).read_bytes()
    (folder / "faulty").mkdir(exist_ok=True)
    (folder / "faulty" / "cut.mcap").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "faulty" / "poisoned.mcap").write_bytes(whole[:4000] + bytes(4000) + whole[8000:])
