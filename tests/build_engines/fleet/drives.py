"""A small fleet: recordings of the tiny bundle, some with labels beside them, one cut short, one poisoned."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.offline import record
from edge_runtime.bundle import Bundle
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.pipeline import Pipeline
from tests import tiny
from tests.conftest import jpeg, noise

FRAMES = 12
STEP_NS = 100_000_000
START_NS = 5_000_000_000
GOOD = ("day/a", "day/b", "day/c", "night/d", "night/e")
CUT, POISONED = "night/cut", "day/poisoned"


def messages(seed: int, night: bool) -> Iterator[Message]:
    """A frame each 100 ms with a reading before it; a sentence now and then."""
    rng = np.random.default_rng(seed)
    for number in range(FRAMES):
        at = START_NS + number * STEP_NS
        yield Sample("sensors", number, at, {"a": float(rng.normal(1, 3)), "b": float(rng.uniform(0, 9))})
        if number % 5 == 2:
            yield Utterance("text", number, at, str(rng.choice(tiny.SENTENCES)))
        brightness = int(rng.integers(20, 90) if night else rng.integers(90, 240))
        yield Frame("camera", number, at, jpeg(noise(brightness, seed * 100 + number)))


def write_labels(path: Path, seed: int, condition: str) -> None:
    """What somebody says was right, a second label in the middle."""
    names = [tiny.LABELS[(seed + part) % len(tiny.LABELS)] for part in (0, 1)]
    half = FRAMES * STEP_NS / 2e9
    with path.with_suffix(".csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["start_s", "end_s", "label", "weather"])
        rows.writerow([0, half, names[0], condition])
        rows.writerow([half, 2 * half, names[1], "dry"])


def write_fleet(folder: Path, bundle: Bundle) -> Path:
    """The good ones with labels but for the last, a cut one, a poisoned one."""
    pipeline = Pipeline(bundle)
    for seed, name in enumerate((*GOOD, CUT)):
        path = folder / f"{name}.mcap"
        path.parent.mkdir(parents=True, exist_ok=True)
        record(path, pipeline, START_NS, messages(seed, name.startswith("night")))
        if name not in (GOOD[-1], CUT):
            write_labels(path, seed, "wet" if seed % 2 else "dry")
    pipeline.close()
    cut = folder / f"{CUT}.mcap"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (folder / f"{POISONED}.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(range(256)) * 8)
    return folder
