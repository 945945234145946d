"""The town's geometry: a distorted 4 x 4 grid of junctions without its corners, joined by curved two-lane roads.

Metres, x east, y north, headings in radians counter-clockwise from east; traffic keeps to the right. Every lane and
every way through a junction is a `Segment` with its arc-length path computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Direction = Literal["left", "right", "straight"]
DIRECTIONS: tuple[Direction, ...] = ("left", "right", "straight")

GRID = 4
SPACING = 98.0
LANE_WIDTH = 3.5
HALF_ROAD = 3.7
JUNCTION_RADIUS = 11.0
"""From a junction's centre to its stop lines."""
STEP = 0.5
"""Metres between the points of a path."""
SIGNAL_AHEAD = 15.0
"""A signal hangs this far beyond its stop line, so that it is in view of the first car that waits."""


class Path:
    """A polyline of equal steps with position and heading by arc length."""

    def __init__(self, points: Floats) -> None:
        """`points` [N, 2] metres, any spacing; they are resampled to steps of about `STEP`."""
        gaps = np.hypot(*np.diff(points, axis=0).T)
        along = np.concatenate(([0.0], np.cumsum(gaps)))
        self.length = float(along[-1])
        count = max(2, round(self.length / STEP) + 1)
        stations = np.linspace(0.0, self.length, count)
        self.points: Floats = np.stack([np.interp(stations, along, points[:, axis]) for axis in (0, 1)], axis=1)
        tangents = np.gradient(self.points, axis=0)
        headings = np.unwrap(np.arctan2(tangents[:, 1], tangents[:, 0]))
        self.normals: Floats = np.stack([-np.sin(headings), np.cos(headings)], axis=1)
        """[N, 2] unit vectors to the left."""
        self._step = self.length / (count - 1)
        # Plain lists: single look-ups in them are several times faster than in arrays.
        self._x: list[float] = self.points[:, 0].tolist()
        self._y: list[float] = self.points[:, 1].tolist()
        self._heading: list[float] = headings.tolist()

    def at(self, s: float) -> tuple[float, float, float]:
        """x, y and heading at arc length `s`; beyond the ends the path goes on straight."""
        position = s / self._step
        index = min(max(int(position), 0), len(self._x) - 2)
        part = position - index
        a, b = 1.0 - part, part
        turn = min(max(part, 0.0), 1.0)
        return (
            a * self._x[index] + b * self._x[index + 1],
            a * self._y[index] + b * self._y[index + 1],
            (1.0 - turn) * self._heading[index] + turn * self._heading[index + 1],
        )

    def offset(self, left: float) -> Floats:
        """[N, 2] points `left` metres to the left of the path."""
        return self.points + left * self.normals


@dataclass(frozen=True)
class Segment:
    """A lane of a road, or one way through a junction."""

    index: int
    path: Path
    kind: Literal["road", "left", "right", "straight"]
    junction: int
    """The junction a road lane leads to, or that a way lies in."""
    arm: int
    """Which of the junction's arms it comes from."""
    exits: dict[Direction, int] = field(default_factory=dict)
    """Of a road lane: the way through the junction by direction."""
    next: int = -1
    """Of a way: the road lane it leads to."""


@dataclass(frozen=True)
class Road:
    """One road's middle line; its right-hand lanes are the segments."""

    path: Path


@dataclass(frozen=True)
class Signal:
    """A traffic light's place: it hangs over the lane, facing the cars that wait."""

    junction: int
    arm: int
    x: float
    y: float
    heading: float
    """Of the cars that it is for."""


@dataclass(frozen=True)
class Town:
    """Everything that does not move."""

    roads: tuple[Road, ...]
    segments: tuple[Segment, ...]
    lanes: tuple[int, ...]
    """Indices of the segments that are road lanes."""
    centres: tuple[tuple[float, float], ...]
    areas: tuple[Floats, ...]
    """Each junction's paved area, a polygon [N, 2]."""
    signals: tuple[Signal, ...]
    arms: tuple[int, ...]
    """Number of arms by junction."""


def curve(start: Floats, leave: Floats, end: Floats, arrive: Floats, bend: float) -> Path:
    """A cubic Hermite curve; `leave` and `arrive` are unit headings, `bend` the tangents' length in metres."""
    t = np.linspace(0.0, 1.0, 160)[:, None]
    t2, t3 = t * t, t * t * t
    points = (
        (2 * t3 - 3 * t2 + 1) * start
        + (t3 - 2 * t2 + t) * bend * leave
        + (3 * t2 - 2 * t3) * end
        + (t3 - t2) * bend * arrive
    )
    return Path(points)


def build_town(seed: int) -> Town:
    """The town of this seed."""
    rng = np.random.default_rng([seed, 1])
    corners = {(0, 0), (0, GRID - 1), (GRID - 1, 0), (GRID - 1, GRID - 1)}
    cells = [(i, j) for i in range(GRID) for j in range(GRID) if (i, j) not in corners]
    number = {cell: index for index, cell in enumerate(cells)}
    centres = [np.array(cell) * SPACING + rng.uniform(-5.0, 5.0, 2) for cell in cells]
    twist = rng.uniform(-0.2, 0.2, len(cells))
    arms: list[list[Floats]] = [[] for _ in cells]
    joined: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def arm(node: int, step: tuple[int, int]) -> tuple[int, int]:
        angle = math.atan2(step[1], step[0]) + twist[node]
        arms[node].append(np.array([math.cos(angle), math.sin(angle)]))
        return node, len(arms[node]) - 1

    for i, j in cells:
        for step in ((1, 0), (0, 1)):
            other = (i + step[0], j + step[1])
            if other in number:
                joined.append((arm(number[i, j], step), arm(number[other], (-step[0], -step[1]))))
    for i, j in sorted(corners):
        # A corner is no junction: its two neighbours are joined by one bend.
        inward = (1 if i == 0 else -1, 1 if j == 0 else -1)
        first, second = number[i + inward[0], j], number[i, j + inward[1]]
        joined.append((arm(first, (-inward[0], 0)), arm(second, (0, -inward[1]))))
    roads, segments, ends = _lanes(centres, arms, joined)
    signals = _ways(segments, ends, len(cells))
    return Town(
        tuple(roads),
        tuple(segments),
        tuple(index for index, segment in enumerate(segments) if segment.kind == "road"),
        tuple((float(x), float(y)) for x, y in centres),
        tuple(_area(centre, around) for centre, around in zip(centres, arms, strict=True)),
        tuple(signals),
        tuple(len(around) for around in arms),
    )


def _lanes(
    centres: list[Floats],
    arms: list[list[Floats]],
    joined: list[tuple[tuple[int, int], tuple[int, int]]],
) -> tuple[list[Road], list[Segment], dict[tuple[int, int], tuple[int, int]]]:
    """Roads, their two lanes each, and (arriving, leaving) lane by (junction, arm)."""
    roads: list[Road] = []
    segments: list[Segment] = []
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b in joined:
        leave, arrive = arms[a[0]][a[1]], -arms[b[0]][b[1]]
        start = centres[a[0]] + JUNCTION_RADIUS * leave
        end = centres[b[0]] - JUNCTION_RADIUS * arrive
        middle = curve(start, leave, end, arrive, float(np.hypot(*(end - start))))
        roads.append(Road(middle))
        right, left = middle.offset(-LANE_WIDTH / 2), middle.offset(LANE_WIDTH / 2)[::-1]
        forth = Segment(len(segments), Path(right), "road", b[0], b[1])
        back = Segment(len(segments) + 1, Path(left), "road", a[0], a[1])
        segments += [forth, back]
        ends[b] = (forth.index, back.index)
        ends[a] = (back.index, forth.index)
    return roads, segments, ends


def _ways(segments: list[Segment], ends: dict[tuple[int, int], tuple[int, int]], junctions: int) -> list[Signal]:
    """Append every way through every junction to `segments`; returns the signals of the arriving lanes."""
    signals: list[Signal] = []
    for junction in range(junctions):
        arms = {arm: lanes for (where, arm), lanes in sorted(ends.items()) if where == junction}
        for arm, (arriving, _) in arms.items():
            lane = segments[arriving]
            x, y, heading = lane.path.at(lane.path.length)
            forward = np.array([math.cos(heading), math.sin(heading)])
            place = np.array([x, y]) + SIGNAL_AHEAD * forward
            signals.append(Signal(junction, arm, float(place[0]), float(place[1]), heading))
            for other, (_, leaving) in arms.items():
                if other == arm:
                    continue
                ox, oy, out = segments[leaving].path.at(0.0)
                turn = (out - heading + math.pi) % (2 * math.pi) - math.pi
                kind: Direction = "straight" if abs(turn) < math.pi / 4 else "left" if turn > 0 else "right"
                start, end = np.array([x, y]), np.array([ox, oy])
                away = np.array([math.cos(out), math.sin(out)])
                bend = float(np.hypot(*(end - start))) * (1.0 if kind == "straight" else 1.2)
                way = Segment(len(segments), curve(start, forward, end, away, bend), kind, junction, arm, next=leaving)
                lane.exits[kind] = way.index
                segments.append(way)
    return signals


def _area(centre: Floats, arms: list[Floats]) -> Floats:
    """The paved polygon of a junction: its arms' mouths, joined by rounded kerbs."""
    ordered = sorted(arms, key=lambda arm: math.atan2(arm[1], arm[0]))
    outline: list[Floats] = []
    for arm, following in zip(ordered, ordered[1:] + ordered[:1], strict=True):
        left, right = np.array([-arm[1], arm[0]]), np.array([following[1], -following[0]])
        first = centre + JUNCTION_RADIUS * arm + HALF_ROAD * left
        last = centre + JUNCTION_RADIUS * following + HALF_ROAD * right
        outline += [centre + JUNCTION_RADIUS * arm - HALF_ROAD * left, first]
        if float(arm @ following) > -0.7:
            corner = centre + HALF_ROAD * (left + right) / max(0.5, 1.0 + float(left @ right))
            t = np.linspace(0.15, 0.85, 6)[:, None]
            outline += list((1 - t) ** 2 * first + 2 * t * (1 - t) * corner + t * t * last)
    return np.array(outline)
