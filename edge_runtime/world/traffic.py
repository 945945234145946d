"""The other vehicles. They keep their lanes, follow by the Intelligent Driver Model, and obey lights.

IDM: Treiber, Hennecke, Helbing, "Congested traffic states in empirical observations and microscopic simulations",
Phys. Rev. E 62 (2000) 1805.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from edge_runtime.world.signals import Signals
from edge_runtime.world.town import Direction, Town

LENGTH, WIDTH = 4.6, 1.9
LOOK_AHEAD = 60.0
NEAR_LINE = 35.0
"""A vehicle this close to a stop line asks for green."""
PLAYER_NEAR_LINE = 48.0
"""The player's car asks earlier, so that it meets green as well as red."""
TURN_SPEED = 5.0
_ACCEL, _COMFORT, _HARDEST = 1.8, 3.0, 8.0
_GAP, _HEADWAY = 2.5, 1.3
_SHARED = 9.0
"""Ways from one arm still overlap over this length."""


class Vehicle:
    """One moving vehicle; `s` (m) is its middle along its segment."""

    __slots__ = (
        "accel",
        "brake_until",
        "colour",
        "desired",
        "manner",
        "manner_until",
        "s",
        "seg",
        "speed",
        "way",
    )

    def __init__(self, seg: int, s: float, speed: float, colour: int) -> None:
        self.seg, self.s, self.speed, self.colour = seg, s, speed, colour
        self.accel = 0.0
        self.way: Direction | None = None
        """Where it will go at the next junction."""
        self.desired = 9.0
        self.manner = "normal"
        self.manner_until = 0.0
        self.brake_until = -1.0


class Traffic:
    """All vehicles but the player's car, which takes part as the vehicle `player`."""

    def __init__(self, town: Town, signals: Signals, rng: np.random.Generator, player: Vehicle, count: int) -> None:
        self._town, self._signals, self._rng, self.player = town, signals, rng, player
        self.vehicles: list[Vehicle] = []
        self._since: dict[tuple[int, int], float] = {}
        self._by_segment: dict[int, list[tuple[float, Vehicle]]] = {}
        lanes = [lane for lane in town.lanes if lane != player.seg]
        for lane in rng.choice(lanes, size=count, replace=False).tolist():
            vehicle = Vehicle(lane, float(rng.uniform(10.0, 60.0)), 8.0, int(rng.integers(1000)))
            self._enter(vehicle, lane, vehicle.s, 0.0)
            self.vehicles.append(vehicle)
        self.refresh()

    def advance(self, dt: float) -> None:
        """Move every vehicle at its speed for `dt` seconds."""
        for vehicle in self.vehicles:
            vehicle.s += vehicle.speed * dt

    def decide(self, t: float, dt: float) -> None:
        """Choose accelerations at time `t` and apply them to the speeds for `dt`; changes of segment; lights."""
        for vehicle in self.vehicles:
            segment = self._town.segments[vehicle.seg]
            if vehicle.s > segment.path.length:
                beyond = vehicle.s - segment.path.length
                following = segment.next if segment.kind != "road" else segment.exits[self._way(vehicle)]
                self._enter(vehicle, following, beyond, t)
        self.refresh()
        inside: dict[int, set[int]] = {}
        for vehicle in (*self.vehicles, self.player):
            segment = self._town.segments[vehicle.seg]
            if segment.kind != "road":
                inside.setdefault(segment.junction, set()).add(segment.arm)
        for vehicle in self.vehicles:
            vehicle.accel = self._accel(vehicle, t, inside)
            vehicle.speed = max(0.0, vehicle.speed + vehicle.accel * dt)
        self._ask_for_green(t, inside)

    def leader(self, seg: int, s: float, way: Direction | None, me: Vehicle) -> tuple[float, Vehicle] | None:
        """The vehicle ahead of `me` at `s` on segment `seg`, bumper to bumper (m), within `LOOK_AHEAD`.

        Beyond the stop line it looks along `way`; None = not beyond.
        """
        segments, best = self._town.segments, None
        segment = segments[seg]
        best = self._first(seg, s, 0.0, me)
        if best is None and segment.kind == "road" and way in segment.exits:
            beyond = segment.path.length - s
            mine = segment.exits[way]
            for index in segment.exits.values():
                candidate = self._first(index, -1.0, beyond, me)
                if candidate and index != mine and candidate[1].s > _SHARED:
                    candidate = None
                if candidate and (best is None or candidate[0] < best[0]):
                    best = candidate
            if best is None:
                best = self._first(segments[mine].next, -1.0, beyond + segments[mine].path.length, me)
        elif segment.kind != "road":
            if s < _SHARED:
                siblings = (sibling for sibling in self._siblings(seg) if sibling != seg)
                for candidate in (self._first(index, s, 0.0, me) for index in siblings):
                    if candidate and candidate[1].s <= _SHARED and (best is None or candidate[0] < best[0]):
                        best = candidate
            if best is None:
                best = self._first(segment.next, -1.0, segment.path.length - s, me)
        return best if best is not None and best[0] < LOOK_AHEAD else None

    def place(self, seg: int, s: float, speed: float, manner: str, t: float, avoid: tuple[float, float]) -> bool:
        """Move the vehicle farthest from `avoid` (x, y; m) to lane `seg`, unless that lane is taken near `s`."""
        if any(abs(other - s) < 15.0 for other, _ in self._by_segment.get(seg, ())):
            return False

        def distance(vehicle: Vehicle) -> float:
            x, y, _ = self._town.segments[vehicle.seg].path.at(vehicle.s)
            return math.hypot(x - avoid[0], y - avoid[1])

        vehicle = max(self.vehicles, key=distance)
        if distance(vehicle) < 80.0:
            return False
        self._enter(vehicle, seg, s, t)
        vehicle.speed, vehicle.accel = speed, 0.0
        self._behave(vehicle, manner, t)
        self.refresh()
        return True

    def banish(self, vehicle: Vehicle, t: float, avoid: tuple[float, float]) -> None:
        """Move `vehicle` to a free lane far from `avoid` (after a collision)."""
        taken = {other.seg for other in (*self.vehicles, self.player)}
        free = [lane for lane in self._town.lanes if lane not in taken]

        def distance(lane: int) -> float:
            x, y, _ = self._town.segments[lane].path.at(30.0)
            return math.hypot(x - avoid[0], y - avoid[1])

        self._enter(vehicle, max(free, key=distance), 30.0, t)
        vehicle.speed = 5.0
        self.refresh()

    def _siblings(self, seg: int) -> Iterable[int]:
        segment = self._town.segments[seg]
        return (
            other.index
            for other in self._town.segments
            if other.kind != "road" and other.junction == segment.junction and other.arm == segment.arm
        )

    def refresh(self) -> None:
        """Note which vehicle is on which segment; call it after moving the player's car to another."""
        table: dict[int, list[tuple[float, Vehicle]]] = {}
        for vehicle in (*self.vehicles, self.player):
            table.setdefault(vehicle.seg, []).append((vehicle.s, vehicle))
        for row in table.values():
            row.sort(key=lambda item: item[0])
        self._by_segment = table

    def _first(self, seg: int, s: float, beyond: float, me: Vehicle) -> tuple[float, Vehicle] | None:
        """The first vehicle on `seg` after `s`; its gap counts from `beyond` metres before the segment's start."""
        row = self._by_segment.get(seg)
        if not row:
            return None
        for _, other in row[bisect_right(row, s, key=lambda item: item[0]) :]:
            if other is not me:
                return other.s - max(s, 0.0) + beyond - LENGTH, other
        return None

    def _way(self, vehicle: Vehicle) -> Direction:
        assert vehicle.way is not None, "a vehicle on a road lane has chosen its way"
        return vehicle.way

    def _enter(self, vehicle: Vehicle, seg: int, s: float, t: float) -> None:
        vehicle.seg, vehicle.s = seg, s
        segment = self._town.segments[seg]
        if segment.kind != "road":
            return
        exits = sorted(segment.exits)
        vehicle.way = exits[int(self._rng.integers(len(exits)))]
        self._behave(vehicle, "normal", t)

    def _behave(self, vehicle: Vehicle, manner: str, t: float) -> None:
        vehicle.manner, vehicle.brake_until = manner, -1.0
        vehicle.manner_until = t + float(self._rng.uniform(4.0, 7.0))
        vehicle.desired = float(self._rng.uniform(3.7, 4.2) if manner == "slow" else self._rng.uniform(9.0, 11.0))

    def _accel(self, vehicle: Vehicle, t: float, inside: dict[int, set[int]]) -> float:
        segment = self._town.segments[vehicle.seg]
        if vehicle.manner != "normal" and t > vehicle.manner_until:
            self._behave(vehicle, "normal", t)
        if vehicle.manner == "brake" and vehicle.brake_until < 0 and self._rng.random() < 0.03:
            vehicle.brake_until = t + float(self._rng.uniform(2.0, 3.5))
        if vehicle.brake_until > t:
            return -4.0 if vehicle.speed > 0 else 0.0
        if vehicle.brake_until > 0:
            self._behave(vehicle, "normal", t)
        target, left = vehicle.desired, segment.path.length - vehicle.s
        if segment.kind in ("left", "right"):
            target = min(target, TURN_SPEED)
        elif segment.kind == "road" and vehicle.way != "straight":
            target = min(target, math.sqrt(TURN_SPEED**2 + 4.0 * max(0.0, left)))
        free = 1.0 - (vehicle.speed / target) ** 4
        ahead = self.leader(vehicle.seg, vehicle.s, vehicle.way, vehicle)
        terms = [self._interaction(vehicle.speed, ahead[0], ahead[1].speed)] if ahead else []
        line = left - LENGTH / 2 - 1.0
        if segment.kind == "road" and left < LOOK_AHEAD and line > -1.0:
            light = self._signals.light(segment.junction, segment.arm)
            blocked = bool(inside.get(segment.junction, set()) - {segment.arm})
            can_stop = vehicle.speed**2 / (2 * 4.0) < line + 0.5
            if light == "red" or blocked or (light == "amber" and can_stop):
                terms.append(self._interaction(vehicle.speed, line, 0.0))
        return max(-_HARDEST, _ACCEL * (free - max(terms, default=0.0)))

    @staticmethod
    def _interaction(speed: float, gap: float, other: float) -> float:
        """IDM's (s*/s)^2."""
        desired_gap = _GAP + max(0.0, speed * _HEADWAY + speed * (speed - other) / (2 * math.sqrt(_ACCEL * _COMFORT)))
        return (desired_gap / max(gap, 0.3)) ** 2

    def _ask_for_green(self, t: float, inside: dict[int, set[int]]) -> None:
        asking: dict[tuple[int, int], float] = {}
        player: tuple[int, int] | None = None
        for vehicle in (*self.vehicles, self.player):
            segment = self._town.segments[vehicle.seg]
            near = PLAYER_NEAR_LINE if vehicle is self.player else NEAR_LINE
            if segment.kind == "road" and segment.path.length - vehicle.s < near:
                key = (segment.junction, segment.arm)
                asking[key] = self._since.get(key, t)
                player = key if vehicle is self.player else player
        self._since = asking
        waiting: dict[int, dict[int, float]] = {}
        for (junction, arm), since in asking.items():
            waiting.setdefault(junction, {})[arm] = since
        self._signals.update(t, waiting, inside.keys(), player)
