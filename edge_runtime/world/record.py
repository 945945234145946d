"""Labelled recordings: the simulation faster than real time, with the right decision beside every picture.

The expert drives, but is disturbed: wrong labels for short times where they do no harm, commands that come late or
never. So the recordings hold the situations that a learner gets itself into, with what it should do there (the idea of
DAgger: Ross, Gordon, Bagnell, AISTATS 2011, arXiv:1011.0686).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_runtime.errors import UserError
from edge_runtime.world import expert
from edge_runtime.world.car import LABELS
from edge_runtime.world.commands import Sentence, Split
from edge_runtime.world.simulation import Sensed, Simulation
from edge_runtime.world.view import View, to_jpeg

if TYPE_CHECKING:
    from edge_runtime.world.learner import Learner

DECISION_HZ = 10
LOSE_COMMAND = 0.14
NUISANCES_PER_S = 0.24
_FIRST_SEED = {"train": 1_000_000, "val": 2_000_000}
"""Both splits' seeds start here: disjoint from each other and from the seeds that people drive with."""
_SEEDS = 1_000_000


class Nuisance:
    """Disturbs the expert: now and then another label for up to two seconds, where it does no harm."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._label: str | None = None
        self._until = 0.0

    def disturb(self, now: expert.Situation, right: str) -> str:
        """The label to drive by instead of `right`."""
        if self._label is not None and (now.t > self._until or not self._harmless(now, self._label)):
            self._label = None
        if self._label is None and self._rng.random() < NUISANCES_PER_S / DECISION_HZ:
            wrong = LABELS[int(self._rng.integers(len(LABELS)))]
            if self._harmless(now, wrong):
                self._label, self._until = wrong, now.t + float(self._rng.uniform(0.4, 2.0))
        return self._label or right

    @staticmethod
    def _harmless(now: expert.Situation, label: str) -> bool:
        if label in ("stop", "slow"):
            return True
        nearest = min((gap for _, gap, _ in now.gaps), default=expert.LEAD_M)
        if nearest < 8.0 + 1.6 * now.speed:
            return False
        # Near the line a wrong label could run a light or take a wrong turn.
        return now.in_junction or now.to_line > 6.0 + now.speed**2 / 7.0


def record(
    out: Path,
    split: Split,
    episodes: int,
    seconds: float,
    seed: int,
    camera_hz: float,
    learner: Path | None = None,
) -> dict[str, object]:
    """Drive `episodes` of `seconds` each into `out/<split>`; returns (and writes) the summary.

    With `learner` (a bundle) that drives, and the expert only says what would have been right.
    Raises UserError if the folder holds a recording already or cannot be written, or a value is out of range.
    """
    if seed < 0 or seed + episodes > _SEEDS:
        raise UserError(f"seed {seed} with {episodes} episodes: must lie within 0 to {_SEEDS}; choose a smaller seed")
    if not 0.1 <= camera_hz <= 30.0 or episodes < 1 or seconds <= 0:
        raise UserError(
            f"record: episodes {episodes}, seconds {seconds}, camera-hz {camera_hz}; "
            "take at least 1 episode, more than 0 seconds, and 0.1 to 30 pictures a second"
        )
    folder = out / split
    if (folder / "messages.jsonl").exists():
        raise UserError(f"record {folder}: holds a recording already; choose another --out or remove it")
    try:
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        with (folder / "messages.jsonl").open("wb") as file:
            recorder = _Recorder(folder, file, camera_hz, _learner(learner))
            _drive_all(recorder, split, episodes, seconds, seed)
        summary = recorder.summary(split, episodes, seconds, seed)
        (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    except OSError as error:
        raise UserError(f"record {folder}: cannot be written ({error.strerror}); choose another --out") from None
    return summary


def _learner(bundle: Path | None) -> Learner | None:
    if bundle is None:
        return None
    # Only here: the world's own process needs no engines.
    from edge_runtime.world.learner import Learner

    return Learner(bundle)


def _drive_all(recorder: _Recorder, split: Split, episodes: int, seconds: float, seed: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"driving ({split})", total=episodes)
        for episode in range(episodes):
            recorder.episode(episode, _FIRST_SEED[split] + seed + episode, split, seconds)
            progress.advance(task)


class _Recorder:
    """Writes one split's messages and frames."""

    def __init__(self, folder: Path, file: IO[bytes], camera_hz: float, learner: Learner | None = None) -> None:
        self._folder, self._file, self._learner = folder, file, learner
        self._camera_hz = camera_hz
        self._frames = 0
        self._messages = 0
        self._labels: Counter[str] = Counter()
        self._without_text: Counter[str] = Counter()
        self._conditions: Counter[str] = Counter()

    def episode(self, number: int, seed: int, split: Split, seconds: float) -> None:
        """One drive from its own seed."""
        simulation = Simulation(seed, split, LOSE_COMMAND)
        view = View(simulation.town, seed)
        nuisance = Nuisance(np.random.default_rng([seed, 21]))
        due = 0.0
        if self._learner is not None:
            self._learner.begin()
        sensed = simulation.collect()
        for item in sensed:
            self._sensed(number, 0.0, item)
        for _ in range(round(seconds * DECISION_HZ)):
            now = simulation.observe()
            right = expert.label(now)
            if now.t >= due:
                self._picture(number, simulation, view, now, right)
                due += 1.0 / self._camera_hz
            if self._learner is None:
                label = nuisance.disturb(now, right)
            else:
                label = self._learner.drive(now, right, lambda: view.draw(simulation), sensed)
            sensed = []
            for _ in range(6):
                for item in simulation.step(1.0 / 60.0, label):
                    self._sensed(number, simulation.t, item)
                    sensed.append(item)

    def summary(self, split: Split, episodes: int, seconds: float, seed: int) -> dict[str, object]:
        """Counts and shares of what was written."""

        def shares(counts: Counter[str]) -> dict[str, float]:
            return {name: round(count / max(1, self._frames), 4) for name, count in sorted(counts.items())}

        return {
            "split": split,
            "episodes": episodes,
            "seconds_each": seconds,
            "first_seed": _FIRST_SEED[split] + seed,
            "camera_hz": self._camera_hz,
            "frames": self._frames,
            "messages": self._messages,
            "labels": dict(sorted(self._labels.items())),
            "label_shares": shares(self._labels),
            "label_without_text_shares": shares(self._without_text),
            "condition_shares": shares(self._conditions),
        }

    def _picture(self, episode: int, simulation: Simulation, view: View, now: expert.Situation, right: str) -> None:
        name = f"frames/{self._frames:06d}.jpg"
        (self._folder / name).write_bytes(to_jpeg(view.draw(simulation)))
        without = expert.label_without_text(now)
        self._frames += 1
        self._labels[right] += 1
        self._without_text[without] += 1
        self._conditions[now.condition] += 1
        self._write(
            episode,
            now.t,
            {
                "stream": "camera.front",
                "frame": name,
                "label": right,
                "label_without_text": without,
                "condition": now.condition,
            },
        )

    def _sensed(self, episode: int, t: float, item: Sensed) -> None:
        if isinstance(item, Sentence):
            self._write(episode, t, {"stream": "text", "text": item.text, "lang": item.lang})
        else:
            self._write(episode, t, {"stream": item.stream, "values": item.values})

    def _write(self, episode: int, t: float, fields: dict[str, object]) -> None:
        self._messages += 1
        self._file.write(msgspec.json.encode({"episode": episode, "t_s": round(t, 4), **fields}) + b"\n")
