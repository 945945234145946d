"""A live run with everything in it, recorded once."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from edge_runtime.config import RecordConfig
from edge_runtime.wire import DecisionMessage
from tests.conftest import tiny_config
from tests.test_runtime import Vehicle, driving

FRAMES = 30


def drive(vehicle: Vehicle, frames: int = FRAMES) -> None:
    """Frames, readings and sentences, then a camera that falls silent for two heartbeats."""
    for number in range(frames):
        vehicle.sample(a=float(number % 7) + 0.1, b=1 / (number + 1))
        if number % 9 == 4:
            vehicle.text("please stop now" if number % 2 else "停车")
        vehicle.answer(40 + 7 * number % 200, f"f{number}")
    vehicle.decision(source="safe", reason="camera stale")
    time.sleep(0.05)


@pytest.fixture(scope="session")
def recorded(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DecisionMessage]]:
    """The file, and the decisions that a subscriber saw."""
    path = tmp_path_factory.mktemp("recorded") / "drive.mcap"
    configuration = msgspec.structs.replace(tiny_config(tiny_bundle_path), record=RecordConfig(str(path)))
    with driving(configuration) as (runtime, vehicle):
        drive(vehicle)
        runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
        decisions = vehicle.decisions
    return path, decisions
