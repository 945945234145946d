"""A bundle at the wheel of a recording, with the expert beside it."""

from __future__ import annotations

import json
from pathlib import Path

from edge_runtime.bundles import bundle_path
from edge_runtime.world.car import LABELS
from edge_runtime.world.expert import Situation
from edge_runtime.world.learner import LESSON_S, PATIENCE_S, Learner
from edge_runtime.world.record import record
from edge_runtime.world.simulation import Simulation
from edge_runtime.world.view import View

VEHICLE = bundle_path("shipped:vehicle")


def test_its_drive_is_recorded_with_the_expert_s_labels(tmp_path: Path) -> None:
    summary = record(tmp_path, "train", 1, 8.0, 77, 2.0, learner=VEHICLE)
    lines = [json.loads(line) for line in (tmp_path / "train" / "messages.jsonl").read_text().splitlines()]
    frames = [line for line in lines if line["stream"] == "camera.front"]
    assert summary["frames"] == len(frames) == 16
    assert {frame["label"] for frame in frames} <= set(LABELS)
    speeds = [line["values"]["speed_mps"] for line in lines if "speed_mps" in line.get("values", {})]
    assert max(speeds) > 3.0


def test_one_that_is_stuck_is_helped_out() -> None:
    learner = Learner(VEHICLE)
    simulation = Simulation(3)
    picture = View(simulation.town, 3).draw(simulation)
    situation = simulation.observe()
    driven = []
    for step in range(round((PATIENCE_S + LESSON_S) * 10)):
        now = Situation(step / 10, *_rest(situation))
        driven.append(learner.drive(now, "turn_right", lambda: picture, simulation.idle() if step else ()))
    # Parked at the start of a straight road no bundle turns right; only the expert does, after its patience has ended.
    assert "turn_right" not in driven[: round(PATIENCE_S * 10)]
    assert driven[-5:] == ["turn_right"] * 5


def _rest(situation: Situation) -> tuple[object, ...]:
    fields = list(situation.__dataclass_fields__)
    return tuple(getattr(situation, name) for name in fields[1:])
