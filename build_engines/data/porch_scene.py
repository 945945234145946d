"""What a detector makes of a porch: people, dogs and cars that come, stand and go, as the device reads them.

Nothing is painted. Things have true boxes; of these come a detector's candidates, with what is wrong with real ones
(boxes that tremble, things missed for a while, found twice, or not there at all). From there on it is the device's own
code: suppression, thresholds, tracks, zones, readings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.messages import AlignedSet, Frame, Slice
from edge_runtime.objects import readings, wanted
from edge_runtime.specs import CameraStream
from edge_runtime.zones import Zone

Floats = NDArray[np.float64]
CAMERA = "camera.porch"
CLASSES = ("person", "dog", "car")
DOOR = {"door": Zone(((0.55, 0.6), (0.95, 0.6), (0.95, 1.0), (0.55, 1.0)))}
"""The step before the door, in shares of the picture."""
STEPS, STEP_NS = 12, 250_000_000
STILL = 4
"""Steps: whoever has not moved for so long stands."""
_SPEC = CameraStream(width=416, height=416, rate_hz=4.0, max_age_ms=1000.0)
_HEAD = DetectionHead(CLASSES, "stage:detector:found", CAMERA)
_POLICY = DecisionPolicy("undecided", threshold=0.4)
_NOBODY = np.zeros((1, 1, 3), np.uint8)
_WALK = 6
"""Steps from the street to the door."""


class Thing(NamedTuple):
    """Something on its way."""

    label: str
    feet: Floats
    """[STEPS, 2]: where it stands, in shares of the picture; beyond it: not in it."""
    height: float
    """Of its box; its width is `shape` times that."""
    shape: float


class Scene(NamedTuple):
    """Some seconds of a porch, up to now."""

    things: tuple[Thing, ...]

    @property
    def visitor(self) -> bool:
        """Somebody stands at the door, and has for a second."""
        return any(_at_door(thing.feet[-1]) and not _moves(thing) for thing in self._people)

    @property
    def walker(self) -> bool:
        """Somebody walks about in the picture."""
        return any(_inside(thing.feet[-1]) and _moves(thing) for thing in self._people)

    @property
    def _people(self) -> list[Thing]:
        return [thing for thing in self.things if thing.label == "person"]


def _inside(feet: Floats) -> bool:
    return bool(0 <= feet[0] <= 1)


def _at_door(feet: Floats) -> bool:
    return bool(0.55 <= feet[0] <= 0.95 and 0.6 <= feet[1] <= 1.0)


def _moves(thing: Thing) -> bool:
    return bool(np.abs(np.diff(thing.feet[-STILL - 1 :], axis=0)).max() > 0.02)


def _between(start: Sequence[float], end: Sequence[float], from_step: int, to_step: int) -> Floats:
    """[STEPS, 2]: at `start` until the one step, at `end` from the other on."""
    share = np.clip((np.arange(STEPS) - from_step) / (to_step - from_step), 0, 1)[:, None]
    first, last = np.array(start), np.array(end)
    walked: Floats = first + share * (last - first)
    return walked


def _street(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0.05, 0.35)), float(rng.uniform(0.42, 0.52))


def _visitor(rng: np.random.Generator, what: str) -> Thing:
    """Somebody who `stays` at the door, still `comes`, `leaves`, or `turns` round there."""
    door, street = (float(rng.uniform(0.6, 0.9)), float(rng.uniform(0.68, 0.97))), _street(rng)
    if what == "stays":
        there = int(rng.integers(-_WALK, STEPS - STILL - 1))
        feet = _between(street, door, there - _WALK, there)
    elif what == "comes":
        there = int(rng.integers(STEPS + 1, STEPS + _WALK - 1))
        feet = _between(street, door, there - _WALK, there)
    else:
        goes = int(rng.integers(STEPS - 10, STEPS - 4))
        feet = _between(door, (-0.2, street[1]), goes, goes + _WALK)
        if what == "turns":
            feet = np.where(np.arange(STEPS)[:, None] < goes, _between(street, door, goes - _WALK, goes), feet)
    sway = rng.normal(0, 0.003, feet.shape)
    return Thing("person", feet + sway, float(rng.uniform(0.4, 0.6)), 0.36)


def _passer(rng: np.random.Generator) -> Thing:
    speed, begins = float(rng.uniform(0.05, 0.12)) * rng.choice([-1, 1]), float(rng.uniform(0.1, 0.9))
    x = begins + speed * (np.arange(STEPS) - rng.uniform(0, STEPS))
    feet = np.stack([x, np.full(STEPS, rng.uniform(0.42, 0.52))], axis=1)
    return Thing("person", feet, float(rng.uniform(0.22, 0.34)), 0.36)


def _still(rng: np.random.Generator, label: str, x: tuple[float, float], y: tuple[float, float]) -> Thing:
    feet = np.array([rng.uniform(*x), rng.uniform(*y)]) + rng.normal(0, 0.002, (STEPS, 2))
    height, shape = {"dog": (0.16, 1.3), "car": (0.22, 2.0)}[label]
    return Thing(label, feet, height * float(rng.uniform(0.8, 1.2)), shape)


def draw(rng: np.random.Generator) -> Scene:
    """A scene: in two of five somebody stands at the door."""
    things: list[Thing] = []
    what = rng.choice(["stays", "comes", "leaves", "turns", ""], p=[0.4, 0.1, 0.1, 0.05, 0.35])
    if what:
        things.append(_visitor(rng, str(what)))
    if rng.random() < 0.35:
        things.append(_passer(rng))
    if rng.random() < 0.2:
        things.append(_still(rng, "dog", (0.3, 0.9), (0.55, 0.95)))
    if rng.random() < 0.3:
        things.append(_still(rng, "car", (0.15, 0.4), (0.5, 0.6)))
    return Scene(tuple(things))


def detected(scene: Scene, dark: bool, rng: np.random.Generator) -> NDArray[np.float32]:
    """[STEPS, N, 4 + classes]: what a detector gives, as a bundle's graph has it. In the dark it is less sure."""
    found: list[list[Floats]] = [[] for _ in range(STEPS)]
    sure, miss = (0.62, 0.12) if dark else (0.75, 0.06)
    for thing in scene.things:
        hidden = False
        for step, feet in enumerate(thing.feet):
            hidden = bool(rng.random() < (0.55 if hidden else miss))
            if hidden or not _inside(feet):
                continue
            for twice in range(1 + int(rng.random() < 0.4)):
                score = float(np.clip(rng.normal(sure - 0.15 * twice, 0.1), 0.02, 0.98))
                found[step].append(_candidate(thing, feet, score, rng))
    for step in range(STEPS):
        if rng.random() < 0.03:
            ghost = Thing("person", np.zeros((1, 2)), float(rng.uniform(0.15, 0.5)), 0.36)
            found[step].append(_candidate(ghost, rng.uniform(0.1, 0.95, 2), float(rng.uniform(0.35, 0.6)), rng))
    most = max(1, *map(len, found))
    output = np.zeros((STEPS, most, 4 + len(CLASSES)), np.float32)
    for step, rows in enumerate(found):
        output[step, : len(rows)] = np.reshape(rows, (-1, output.shape[2]))
    return output


def _candidate(thing: Thing, feet: Floats, score: float, rng: np.random.Generator) -> Floats:
    """A box that trembles, and a score for each class."""
    height, width = thing.height, thing.height * thing.shape
    box = np.array([feet[0] - width / 2, feet[1] - height, feet[0] + width / 2, feet[1]])
    box += rng.normal(0, 0.02, 4) * [width, height, width, height]
    scores = rng.uniform(0, 0.1, len(CLASSES))
    scores[CLASSES.index(thing.label)] = score
    return np.concatenate([box.clip(0, 1), scores])


def seen(output: NDArray[np.float32], channels: Sequence[str]) -> list[Mapping[str, float]]:
    """The readings by channel of each step of `output`, as the source `detections` makes them of decisions."""
    asked, state = wanted(channels, DOOR), PolicyState()
    found: list[Mapping[str, float]] = []
    for step, candidates in enumerate(output):
        at_ns = (step + 1) * STEP_NS
        frame = Frame(CAMERA, step, at_ns, _NOBODY, size=(640, 480))
        aligned = AlignedSet(at_ns, {CAMERA: Slice(CAMERA, True, (frame,))})
        verdict, state = _HEAD.decide(_POLICY, state, candidates, Inputs({CAMERA: _SPEC}, aligned, DOOR))
        assert isinstance(verdict.detections, tuple)
        found.append(readings(verdict.detections, asked, DOOR))
    return found
