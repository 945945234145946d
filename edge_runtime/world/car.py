"""The car that is driven by decisions. It keeps its lane by itself; decisions set its speed and its exits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.world.town import Direction, Town
from edge_runtime.world.traffic import LENGTH, Vehicle

LABELS = ("keep", "slow", "stop", "turn_left", "turn_right")
SILENCE_S = 0.5
"""Without a decision for this long the car brakes to a standstill by itself."""
TARGET_MPS = {"keep": 10.0, "slow": 4.0, "stop": 0.0, "turn_left": 4.8, "turn_right": 4.8}
ACCEL, EASE, BRAKE = 2.5, 3.5, 4.5
"""m/s2: speeding up, slowing to a target, stopping."""
_LAG_S = 0.12
"""Time constant of engine and brakes."""
_TURN_MPS = 5.5
"""The car itself never goes faster through a turn."""
_DIRECTION: dict[str, Direction] = {"keep": "straight", "turn_left": "left", "turn_right": "right"}
VOTE_ZONE = 20.0
"""Metres before the stop line from which decisions choose the exit."""
_VOTE_S = 0.4
_SWAY_M, _SWAY_LENGTH = 0.15, 37.0


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the car is and how it moves."""

    x: float
    y: float
    heading: float
    speed: float
    yaw_rate: float
    accel: float


class Car(Vehicle):
    """The player's car: a vehicle whose acceleration and ways come from decision labels."""

    __slots__ = (
        "_heading",
        "_town",
        "_votes",
        "_yaw_rate",
        "failsafe",
        "label",
        "label_at",
        "odometer",
        "safe_stops",
    )

    def __init__(self, town: Town, seg: int, s: float) -> None:
        super().__init__(seg, s, 0.0, 0)
        self._town = town
        self.label: str | None = None
        self.label_at = -math.inf
        self.failsafe = True
        self.safe_stops = 0
        self.odometer = 0.0
        self._votes: dict[Direction, float] = {}
        self._yaw_rate = 0.0
        self._heading = town.segments[seg].path.at(s)[2]

    @property
    def front(self) -> float:
        """The front bumper along the segment (m)."""
        return self.s + LENGTH / 2

    def hear(self, label: str, t: float) -> None:
        """Take a decision received at time `t` (s)."""
        self.label, self.label_at, self.failsafe = label, t, False

    def step(self, t: float, dt: float) -> None:
        """Move for `dt` seconds (not across segments: see `enter`)."""
        if not self.failsafe and t - self.label_at > SILENCE_S:
            self.failsafe = True
            self.safe_stops += 1
        label = "stop" if self.failsafe or self.label is None else self.label
        target = TARGET_MPS[label]
        segment = self._town.segments[self.seg]
        if segment.kind in ("left", "right"):
            target = min(target, _TURN_MPS)
        limit = BRAKE if label == "stop" else EASE
        acceleration = min(max((target - self.speed) / 0.25, -limit), ACCEL)
        self.accel += (acceleration - self.accel) * min(1.0, dt / _LAG_S)
        moved = self.speed
        self.speed = max(0.0, self.speed + self.accel * dt)
        if self.speed == 0.0:
            self.accel = max(0.0, self.accel)
        way = (moved + self.speed) / 2 * dt
        self.s += way
        self.odometer += way
        if segment.kind == "road" and 0.0 <= segment.path.length - self.front < VOTE_ZONE:
            self._vote(label, dt)
        heading = self._town.segments[self.seg].path.at(self.s)[2]
        turned = (heading - self._heading + math.pi) % (2 * math.pi) - math.pi
        self._yaw_rate += (turned / dt - self._yaw_rate) * min(1.0, dt / 0.1)
        self._heading = heading

    def choose(self) -> Direction:
        """The exit that decisions ask for now; where it does not exist, the nearest that does."""
        exits = self._town.segments[self.seg].exits
        wish = max(self._votes, key=lambda way: self._votes[way], default="straight")
        self._votes = {}
        if wish in exits:
            return wish
        fallback: tuple[Direction, ...] = ("straight", "right", "left")
        return next(way for way in fallback if way in exits)

    def enter(self, seg: int) -> None:
        """Go on to the next segment; the rest of the way counts there."""
        self.s -= self._town.segments[self.seg].path.length
        self.seg = seg

    def halt(self) -> None:
        """Stand still at once (a collision)."""
        self.speed, self.accel = 0.0, 0.0

    def pose(self) -> Pose:
        """Position (m), heading (rad), speed (m/s), yaw rate (rad/s), acceleration (m/s2)."""
        x, y, heading = self._town.segments[self.seg].path.at(self.s)
        phase = self.odometer * 2 * math.pi / _SWAY_LENGTH
        # Drivers sway a little in their lane; it keeps the picture from being the same at every pass.
        side = _SWAY_M * math.sin(phase)
        heading += math.atan(_SWAY_M * 2 * math.pi / _SWAY_LENGTH * math.cos(phase))
        return Pose(
            x - side * math.sin(heading),
            y + side * math.cos(heading),
            heading,
            self.speed,
            self._yaw_rate,
            self.accel,
        )

    def _vote(self, label: str, dt: float) -> None:
        """Decisions of the last moments count; `slow` and `stop` say nothing about the direction."""
        if label not in _DIRECTION:
            return
        fade = math.exp(-dt / _VOTE_S)
        self._votes = {way: weight * fade for way, weight in self._votes.items()}
        way = _DIRECTION[label]
        self._votes[way] = self._votes.get(way, 0.0) + 1.0 - fade
