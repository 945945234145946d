"""The closed loop: fixed steps of 1/60 s, the same for the same seed and the same decisions.

`Simulation(seed)` starts parked on a road; `step(dt, label)` drives on by a decision; `observe()` is what the expert
judges by; `closed_loop` runs a policy. Nothing here reads a clock, sends, or draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.world import sensors
from edge_runtime.world.car import Car
from edge_runtime.world.collision import at_fault, overlap
from edge_runtime.world.commands import Navigator, Sentence, Split
from edge_runtime.world.expert import TEXT_TTL_S, Condition, Situation
from edge_runtime.world.score import Score
from edge_runtime.world.signals import Light, Signals
from edge_runtime.world.town import Direction, build_town
from edge_runtime.world.traffic import Traffic
from edge_runtime.world.weather import weather

HZ = 60
TICK = 1.0 / HZ
_TRAFFIC_EVERY = 3
_MOTION_EVERY, _RANGE_EVERY, _POSITION_EVERY = 3, 6, 6
VEHICLES = 14
_START_M = 50.0
"""The car starts this far before a stop line."""
_LONG_ROAD_M = 105.0
"""Roads longer than this are chosen less often: little happens on them."""

Policy = Callable[[Situation], str]


@dataclass(frozen=True, slots=True)
class Reading:
    """Values measured together, one message of the stream `stream`."""

    stream: str
    values: dict[str, float]


Sensed = Reading | Sentence


@dataclass(frozen=True, slots=True)
class Shown:
    """One vehicle as the camera sees it."""

    x: float
    y: float
    heading: float
    colour: int
    braking: bool


@dataclass(slots=True)
class _Tally:
    commanded: int = 0
    as_told: int = 0
    reds_met: int = 0
    reds_run: int = 0
    collisions: int = 0
    stopped_s: float = 0.0
    longest_s: float = 0.0
    standing_s: float = 0.0
    red_seen: bool = False
    ways: Counter[str] = field(default_factory=Counter)


class Simulation:
    """One drive through the town of `seed`. `lose` is the navigator's (see `Navigator`). Single-threaded."""

    def __init__(self, seed: int, split: Split = "train", lose: float = 0.0) -> None:
        def stream(number: int) -> np.random.Generator:
            return np.random.default_rng([seed, number])

        self.seed, self.town, self.ticks = seed, build_town(seed), 0
        self._luck, self._noise, self._beside = stream(2), stream(3), stream(8)
        start = int(self._luck.choice([lane for lane in self.town.lanes if not self._long(lane)]))
        self.car = Car(self.town, start, self.town.segments[start].path.length - _START_M)
        self.signals = Signals(self.town.arms, stream(4))
        self.traffic = Traffic(self.town, self.signals, stream(5), self.car, VEHICLES)
        self.navigator = Navigator(stream(6), split, lose)
        self.heard: tuple[Sentence, float] | None = None
        self._weather = weather(stream(7))
        self._tally = _Tally()
        self._latched: Direction | None = None
        self._wrecks: dict[int, float] = {}
        self._outbox: list[Sensed] = []
        self._idled = 0
        self._say(self.navigator.enter_road(self._exits()))

    @property
    def t(self) -> float:
        """Simulated seconds."""
        return self.ticks * TICK

    @property
    def condition(self) -> Condition:
        """Day, dusk or fog, now."""
        return next(name for until, name in reversed(self._weather) if self.t >= until)

    @property
    def to_line(self) -> float:
        """Metres from the front bumper to the stop line; 0 in a junction."""
        segment = self.town.segments[self.car.seg]
        return segment.path.length - self.car.front if segment.kind == "road" else 0.0

    @property
    def in_junction(self) -> bool:
        """From the front bumper's crossing of the stop line until the car's middle is on the next road."""
        return self._latched is not None

    def step(self, dt: float, label: str | None) -> list[Sensed]:
        """Drive on for `dt` (s, rounded to steps) by a decision that came now (None: none came).

        Returns what was sensed and said meanwhile, in order.
        """
        if label is not None:
            self.car.hear(label, self.t)
        for _ in range(max(1, round(dt * HZ))):
            self._tick()
        return self.collect()

    def collect(self) -> list[Sensed]:
        """What was sensed and said since the last call."""
        out, self._outbox = self._outbox, []
        return out

    def idle(self) -> list[Sensed]:
        """One step in which the world stands still but the sensors go on (waiting for the first decision)."""
        self._idled += 1
        self._sense(self._idled)
        return self.collect()

    def light(self) -> Light:
        """The light ahead of the car, or of the junction it is in."""
        segment = self.town.segments[self.car.seg]
        return self.signals.light(segment.junction, segment.arm)

    def observe(self) -> Situation:
        """What matters for the decision now."""
        car = self.car
        segment = self.town.segments[car.seg]
        heard = self.heard[0].meaning if self.heard and self.t - self.heard[1] <= TEXT_TTL_S else None
        exits: tuple[Direction, ...] = tuple(sorted(segment.exits))
        directions: tuple[Direction | None, ...] = (None, *exits)
        if self._latched is not None:
            directions = (self._latched,) if segment.kind == "road" else (None,)
        gaps: list[tuple[Direction | None, float, float]] = []
        for way in directions:
            leader = self.traffic.leader(car.seg, car.s, way, car)
            if leader is not None:
                gaps.append((None if self._latched is not None else way, leader[0], leader[1].speed))
        return Situation(
            self.t,
            car.speed,
            self.to_line,
            self.in_junction,
            self.light(),
            exits,
            tuple(gaps),
            heard,
            self.condition,
        )

    def shown(self) -> list[Shown]:
        """The other vehicles, for the camera."""
        rows: list[Shown] = []
        for vehicle in self.traffic.vehicles:
            x, y, heading = self.town.segments[vehicle.seg].path.at(vehicle.s)
            braking = vehicle.accel < -0.7 or vehicle.speed < 0.2
            rows.append(Shown(x, y, heading, vehicle.colour, braking))
        return rows

    def score(self) -> Score:
        """The account so far, without what only the sockets know."""
        tally = self._tally
        return Score(
            self.seed,
            round(self.t, 3),
            round(self.car.odometer, 2),
            tally.commanded,
            tally.as_told,
            tally.commanded - tally.as_told,
            tally.reds_met,
            tally.reds_run,
            tally.collisions,
            round(tally.stopped_s, 2),
            round(max(tally.longest_s, tally.standing_s), 2),
            self.car.safe_stops,
            dict(sorted(tally.ways.items())),
        )

    def _tick(self) -> None:
        self.ticks += 1
        self.car.step(self.t, TICK)
        self.traffic.advance(TICK)
        self._follow_way()
        if self.ticks % _TRAFFIC_EVERY == 0:
            self.traffic.decide(self.t, TICK * _TRAFFIC_EVERY)
            self._collide()
        if not self.in_junction:
            self._say(self.navigator.approach(self.t, TICK, self.to_line, self.car.speed))
            self._tally.red_seen |= self.to_line < 30.0 and self.light() == "red"
        self._stand()
        self._sense(self.ticks)

    def _follow_way(self) -> None:
        """Crossing of the stop line, of the junction's edges, and what follows from it."""
        car, segment = self.car, self.town.segments[self.car.seg]
        if segment.kind == "road" and self._latched is None and self.to_line < 0.0:
            self._latched = car.choose()
            self._tally.commanded += 1
            self._tally.ways[self._latched] += 1
            self._tally.as_told += self._latched == self.navigator.direction
            self._tally.reds_met += self._tally.red_seen
            self._tally.reds_run += self.light() == "red"
            self._tally.red_seen = False
            self._company(self.town.segments[segment.exits[self._latched]].next)
        if car.s > segment.path.length:
            if segment.kind == "road":
                assert self._latched is not None, "the front crosses the line before the middle"
                car.enter(segment.exits[self._latched])
            else:
                car.enter(segment.next)
                self._latched = None
                self._say(self.navigator.enter_road(self._exits()))
            self.traffic.refresh()

    def _company(self, lane: int) -> None:
        """Now and then a slow or soon braking vehicle drives on the road that the car is about to enter."""
        if self._luck.random() < 0.4:
            manner = "slow" if self._luck.random() < 0.5 else "brake"
            pose = self.car.pose()
            self.traffic.place(
                lane,
                float(self._luck.uniform(22.0, 50.0)),
                4.0 if manner == "slow" else 8.0,
                manner,
                self.t,
                (pose.x, pose.y),
            )

    def _collide(self) -> None:
        pose = self.car.pose()
        for index, vehicle in enumerate(self.traffic.vehicles):
            x, y, heading = self.town.segments[vehicle.seg].path.at(vehicle.s)
            if index in self._wrecks:
                if self.t > self._wrecks[index]:
                    del self._wrecks[index]
                    self.traffic.banish(vehicle, self.t, (pose.x, pose.y))
                else:
                    vehicle.speed = 0.0
            elif abs(x - pose.x) + abs(y - pose.y) < 7.0 and overlap((pose.x, pose.y, pose.heading), (x, y, heading)):
                self._tally.collisions += at_fault(pose, vehicle.speed, (x, y))
                self._wrecks[index] = self.t + 1.5
                self.car.halt()

    def _stand(self) -> None:
        tally = self._tally
        if self.car.speed < 0.1:
            tally.stopped_s += TICK
            tally.standing_s += TICK
        else:
            tally.longest_s, tally.standing_s = max(tally.longest_s, tally.standing_s), 0.0

    def _sense(self, tick: int) -> None:
        if tick % _MOTION_EVERY == 0:
            pose = self.car.pose()
            self._outbox.append(Reading("sensors", sensors.motion(pose, self._noise)))
            if tick % _RANGE_EVERY == 0:
                others = [(other.x, other.y, other.heading) for other in self.shown()]
                self._outbox.append(Reading("sensors", sensors.ranges(pose, others, self._noise)))
            if tick % _POSITION_EVERY == 0:
                # Every other one came later, and has luck of its own: a seed's drive stays what it was.
                noise = self._beside if tick % (2 * _POSITION_EVERY) else self._noise
                self._outbox.append(Reading("position", sensors.position(pose, noise)))

    def _say(self, sentence: Sentence | None) -> None:
        if sentence is not None:
            self.heard = (sentence, self.t)
            self._outbox.append(sentence)

    def _exits(self) -> dict[Direction, float]:
        segments = self.town.segments
        exits = segments[self.car.seg].exits
        return {way: 0.15 if self._long(segments[index].next) else 1.0 for way, index in exits.items()}

    def _long(self, lane: int) -> bool:
        return self.town.segments[lane].path.length > _LONG_ROAD_M


def closed_loop(seed: int, seconds: float, policy: Policy, hz: float = 30.0, split: Split = "train") -> Simulation:
    """Drive for `seconds` with a decision of `policy` every 1/`hz` s; returns the simulation at its end."""
    simulation = Simulation(seed, split)
    for _ in range(round(seconds * hz)):
        simulation.step(1.0 / hz, policy(simulation.observe()))
    return simulation
