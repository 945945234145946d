"""Geometry, phrasings and the camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.world import expert
from edge_runtime.world.car import Pose
from edge_runtime.world.collision import at_fault, overlap
from edge_runtime.world.commands import Navigator, Split, say, templates
from edge_runtime.world.lens import HEIGHT, WIDTH
from edge_runtime.world.sensors import ranges
from edge_runtime.world.simulation import Simulation
from edge_runtime.world.town import build_town
from edge_runtime.world.view import View


@pytest.mark.parametrize("seed", range(4))
def test_every_way_joins_its_lanes_smoothly(seed: int) -> None:
    town = build_town(seed)
    for lane in (town.segments[index] for index in town.lanes):
        assert lane.path.length > 50.0
        assert len(lane.exits) >= 2
        end = lane.path.at(lane.path.length)
        for kind, index in lane.exits.items():
            way = town.segments[index]
            assert way.kind == kind
            _close(end, way.path.at(0.0))
            _close(way.path.at(way.path.length), town.segments[way.next].path.at(0.0))


def _close(a: tuple[float, float, float], b: tuple[float, float, float]) -> None:
    assert math.dist(a[:2], b[:2]) < 0.05
    assert abs((a[2] - b[2] + math.pi) % (2 * math.pi) - math.pi) < 0.15


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("meaning", ["left", "right", "straight", "onward"])
def test_held_out_phrasings_are_not_in_train(lang: str, meaning: str) -> None:
    train, val = (set(templates(split, lang, meaning)) for split in ("train", "val"))  # type: ignore[arg-type]
    assert train and val and not train & val


def test_held_out_sentences_are_never_said_in_train() -> None:
    def said(split: Split) -> set[str]:
        rng = np.random.default_rng(0)
        return {
            say(rng, split, meaning, 40.0).text.lower()
            for meaning in ("left", "right", "straight")
            for _ in range(2000)
        }

    assert not said("train") & said("val")


def test_navigator_speaks_before_the_line_and_repeats() -> None:
    navigator = Navigator(np.random.default_rng(1), "train")
    onward = navigator.enter_road({"left": 1.0})
    assert onward is not None and onward.meaning == "onward"
    times = [step / 10 for step in range(200) if navigator.approach(step / 10, 0.1, 60.0 - step / 4, 2.5)]
    assert times == pytest.approx([6.0, 11.0, 16.0])


def test_vehicle_ahead_is_measured_in_the_middle_sector() -> None:
    pose = Pose(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    measured = ranges(pose, [(20.0, 0.0, 0.0)], np.random.default_rng(0))
    assert measured["range_4_m"] == pytest.approx(20.0 - 4.6, abs=0.6)
    assert measured["range_0_m"] == measured["range_8_m"] == 60.0
    left = ranges(pose, [(12.0, 12.0, 0.0)], np.random.default_rng(0))
    assert min(left, key=lambda name: left[name]) in ("range_0_m", "range_1_m")


def test_overlap_and_fault() -> None:
    assert overlap((0, 0, 0), (4.5, 0, 0))
    assert not overlap((0, 0, 0), (4.7, 0, 0))
    assert not overlap((0, 0, 0), (0, 2.0, 0))
    assert overlap((0, 0, 0), (3.0, 0, math.pi / 2))
    standing = Pose(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert not at_fault(standing, 5.0, (-4.5, 0.0))
    assert at_fault(Pose(0.0, 0.0, 0.0, 5.0, 0.0, 0.0), 0.0, (4.5, 0.0))


def _at_red_light() -> Simulation:
    simulation = Simulation(4)
    for _ in range(3000):
        simulation.step(0.05, expert.label(simulation.observe()))
        if simulation.to_line < 12.0 and simulation.light() == "red" and not simulation.in_junction:
            return simulation
    raise AssertionError("no red light on this drive")


def test_camera_shows_the_light_and_sensors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = _at_red_light()
    view = View(simulation.town, 4)
    red = view.draw(simulation)
    assert red.shape == (HEIGHT, WIDTH, 3) and red.dtype == np.uint8
    pose = simulation.car.pose()
    others = [(other.x, other.y, other.heading) for other in simulation.shown()]
    before = ranges(pose, others, np.random.default_rng(0))
    monkeypatch.setattr(simulation.signals, "light", lambda junction, arm: "green")
    green = view.draw(simulation)

    def pure(image: np.ndarray, channel: int, other: int) -> int:
        upper = image[: HEIGHT // 2].astype(int)
        return int(((upper[..., channel] > 180) & (upper[..., other] < 120)).sum())

    assert pure(red, 2, 1) > 40 > pure(green, 2, 1)
    assert pure(green, 1, 2) > pure(red, 1, 2) + 40
    assert ranges(pose, others, np.random.default_rng(0)) == before


def test_fog_hides_a_vehicle_from_the_camera_but_not_from_the_range_sensor() -> None:
    def pictures(condition: str) -> float:
        simulation = Simulation(7)
        simulation._weather = [(0.0, condition)]  # type: ignore[list-item]
        car, mate = simulation.car, simulation.traffic.vehicles[0]
        for vehicle in simulation.traffic.vehicles:
            vehicle.seg = car.seg ^ 1
            vehicle.s = 1.0
        without = View(simulation.town, 7).draw(simulation)
        mate.seg, mate.s = car.seg, car.s + 24.0
        place = simulation.town.segments[mate.seg].path.at(mate.s)
        assert min(ranges(car.pose(), [place], np.random.default_rng(0)).values()) < 25.0
        shown = View(simulation.town, 7).draw(simulation)
        return float(np.abs(shown.astype(int) - without.astype(int)).max())

    assert pictures("fog") == 0.0
    assert pictures("day") > 50.0
