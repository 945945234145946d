"""The closed loop: the expert drives without fault, careless policies do not, and the seed says it all."""

from __future__ import annotations

import dataclasses

import pytest

from edge_runtime.world import expert
from edge_runtime.world.car import LABELS
from edge_runtime.world.simulation import Reading, Simulation, closed_loop

SEEDS = (1, 2, 3, 4, 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_expert_drives_without_fault(seed: int) -> None:
    score = closed_loop(seed, 75.0, expert.label).score()
    assert score.collisions == 0
    assert score.red_lights_run == 0
    assert score.wrong_turns == 0
    assert score.junctions_as_told == score.junctions_commanded >= 4
    assert score.red_lights_met >= 1
    assert score.safe_stops == 0
    assert score.longest_stop_s < 12.0


def test_expert_drives_without_fault_at_a_slow_rate_and_with_other_phrasings() -> None:
    score = closed_loop(6, 75.0, expert.label, hz=5.0, split="val").score()
    assert (score.collisions, score.red_lights_run, score.wrong_turns) == (0, 0, 0)


def test_always_keep_runs_lights_or_collides() -> None:
    for seed in SEEDS:
        score = closed_loop(seed, 75.0, lambda now: "keep").score()
        assert score.red_lights_run + score.collisions > 0
        assert score.wrong_turns > 0


def test_without_text_the_car_waits_at_the_first_junction() -> None:
    score = closed_loop(1, 60.0, expert.label_without_text).score()
    assert score.junctions_commanded == 0
    assert score.longest_stop_s > 30.0
    assert score.collisions == 0


def test_every_label_and_condition_occurs() -> None:
    labels: set[str] = set()
    conditions: set[str] = set()
    for seed in SEEDS:

        def policy(now: expert.Situation) -> str:
            conditions.add(now.condition)
            label = expert.label(now)
            labels.add(label)
            return label

        closed_loop(seed, 75.0, policy, hz=10.0)
    assert labels == set(LABELS)
    assert conditions == set(expert.CONDITIONS)


def test_same_seed_same_drive() -> None:
    def trace(seed: int) -> list[object]:
        simulation = Simulation(seed)
        return [simulation.step(0.1, expert.label(simulation.observe())) for _ in range(200)] + [simulation.score()]

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


def test_silence_brakes_the_car_and_a_decision_starts_it_again() -> None:
    simulation = Simulation(2)
    for _ in range(20):
        simulation.step(0.1, "keep")
    assert simulation.car.speed > 3.0
    simulation.step(0.35, None)
    assert simulation.car.safe_stops == 0
    simulation.step(4.0, None)
    assert simulation.car.speed == 0.0
    assert simulation.score().safe_stops == 1
    simulation.step(0.4, "keep")
    assert simulation.car.speed > 0.0


@pytest.mark.parametrize(("label", "speed"), [("keep", 10.0), ("slow", 4.0), ("stop", 0.0)])
def test_labels_set_the_speed(label: str, speed: float) -> None:
    simulation = Simulation(2)
    simulation.traffic.vehicles.clear()
    for _ in range(45):
        simulation.step(0.1, label)
    assert simulation.car.speed == pytest.approx(speed, abs=0.6)


def test_parked_car_still_senses() -> None:
    simulation = Simulation(1)
    simulation.collect()
    items = [item for _ in range(60) for item in simulation.idle()]
    assert len(items) == 20 + 10 + 10
    assert simulation.t == 0.0


def test_sensor_rates_and_channels() -> None:
    simulation = Simulation(1)
    simulation.collect()
    readings = [item for _ in range(100) for item in simulation.step(0.1, "slow") if isinstance(item, Reading)]
    motion = [item for item in readings if "speed_mps" in item.values]
    ranges = [item for item in readings if "range_4_m" in item.values]
    position = [item for item in readings if item.stream == "position"]
    assert (len(motion), len(ranges), len(position)) == (200, 100, 100)
    assert all(len(item.values) == 9 and 0.0 <= min(item.values.values()) <= 60.0 for item in ranges)
    assert all(item.stream == "sensors" for item in motion + ranges)


def test_label_depends_on_light_text_and_vehicle_ahead() -> None:
    now = expert.Situation(0.0, 5.0, 10.0, False, "green", ("left", "straight"), (), "left", "day")
    assert expert.label(now) == "turn_left"
    assert expert.label(dataclasses.replace(now, light="red")) == "slow"
    assert expert.label(dataclasses.replace(now, light="red", to_line=5.0)) == "stop"
    assert expert.label(dataclasses.replace(now, heard="straight")) == "keep"
    assert expert.label(dataclasses.replace(now, heard="onward", to_line=5.0)) == "stop"
    assert expert.label_without_text(now) == "slow"
    assert expert.label(dataclasses.replace(now, gaps=(("left", 4.0, 0.0),))) == "stop"
    assert expert.label(dataclasses.replace(now, gaps=((None, 12.0, 4.0),), to_line=40.0)) == "slow"
