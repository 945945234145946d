"""What was seen as readings, by hand-made cases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edge_runtime.messages import Detection
from edge_runtime.objects import FIGURES, readings, wanted
from edge_runtime.zones import Zone

ZONES = {"door": Zone(((0, 0), (0.5, 0), (0.5, 1), (0, 1)))}
NEAR = Detection("person", 0.9, (0.1, 0.2, 0.3, 0.6), 1, True)
FAR = Detection("person", 0.6, (0.7, 0.2, 0.8, 0.3), 2, False)
DOG = Detection("traffic light", 0.7, (0.0, 0.0, 0.1, 0.5), 3, False)
CHANNELS = [f"{label}.{zone}.{figure}" for label in ("person", "traffic light") for zone in ("door", "picture")
            for figure in FIGURES]  # fmt: skip


def test_every_figure_of_every_class_and_zone() -> None:
    values = readings([NEAR, FAR, DOG], wanted(CHANNELS, ZONES), ZONES)
    rounded = {name: round(value, 6) for name, value in values.items()}
    assert rounded == {
        "person.door.count": 1, "person.door.score": 0.9, "person.door.area": 0.08, "person.door.moving": 1,
        "person.door.standing": 0,
        "person.picture.count": 2, "person.picture.score": 0.9, "person.picture.area": 0.08,
        "person.picture.moving": 1, "person.picture.standing": 1,
        "traffic light.door.count": 1, "traffic light.door.score": 0.7, "traffic light.door.area": 0.05,
        "traffic light.door.moving": 0, "traffic light.door.standing": 1,
        "traffic light.picture.count": 1, "traffic light.picture.score": 0.7, "traffic light.picture.area": 0.05,
        "traffic light.picture.moving": 0, "traffic light.picture.standing": 1,
    }  # fmt: skip
    assert set(readings([], wanted(CHANNELS, ZONES), ZONES).values()) == {0.0}, "nothing is there: that is known"


def test_without_tracks_nobody_knows_what_moves() -> None:
    untracked = Detection("person", 0.9, (0.1, 0.2, 0.3, 0.6))
    values = readings([untracked, replace(DOG)], wanted(CHANNELS, ZONES), ZONES)
    assert {name for name in CHANNELS if name not in values} == {
        f"person.{zone}.{figure}" for zone in ("door", "picture") for figure in ("moving", "standing")
    }


def test_other_channels_are_other_sources_and_unknown_zones_are_refused() -> None:
    assert wanted(["lux", "co2_ppm", "a.count", "person.door.width"], ZONES) == ()
    with pytest.raises(ValueError, match=r"'person.window.count' names the zone 'window'; there are picture, door"):
        wanted(["person.window.count"], ZONES)
