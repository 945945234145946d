"""What is interrupted, and what must hold after: a whole slot boots and decides."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.bundle import sign_bundle
from edge_runtime.durable import DISK, Disk
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import Slots, State
from tests import tiny
from tests.installs.disk import FaultyDisk, Killed

VERSIONS = ("1.0.0", "2.0.0", "3.0.0")


@dataclass(frozen=True)
class World:
    """Signed bundles, the key, and slots in several states."""

    folder: Path
    key: Path

    def bundle(self, version: str) -> Path:
        return self.folder / version

    def slots(self, name: str) -> Path:
        return self.folder / f"slots-{name}"


@dataclass(frozen=True)
class Case:
    """Something done to slots, from a state on."""

    name: str
    begins: str
    do: Callable[[Slots, World], object]
    versions: frozenset[str]
    """One of these must boot, wherever it was cut short."""


def _install(version: str) -> Callable[[Slots, World], object]:
    return lambda slots, world: slots.install(world.bundle(version), [world.key])


def _current(slots: Slots) -> State:
    state = slots.read()
    assert state.current is not None
    return state


CASES = (
    Case("install over a good one", "good", _install("2.0.0"), frozenset({"1.0.0", "2.0.0"})),
    Case("install over one on trial", "trial", _install("3.0.0"), frozenset({"2.0.0", "3.0.0"})),
    Case("install over one that went back", "back", _install("3.0.0"), frozenset({"1.0.0", "3.0.0"})),
    Case("start", "trial", lambda slots, world: slots.boot(), frozenset({"2.0.0"})),
    Case("good", "trial", lambda slots, world: slots.passed(_current(slots).slots[0]), frozenset({"2.0.0"})),
    Case(
        "bad",
        "trial",
        lambda slots, world: slots.failed(_current(slots).slots[0], "slow"),
        frozenset({"1.0.0", "2.0.0"}),
    ),
    Case("rollback", "trial", lambda slots, world: slots.roll_back(), frozenset({"1.0.0", "2.0.0"})),
)


def make_world(folder: Path) -> World:
    """Three versions, and slots: `good` (1), `trial` (2 over 1), `back` (1 after 2 was bad)."""
    secret, key = generate_keys(folder / "plant")
    world = World(folder, key)
    for version in VERSIONS:
        tiny.write_bundle(world.bundle(version), version=version)
        sign_bundle(world.bundle(version), secret)
    good = Slots(world.slots("good"))
    good.passed(good.install(world.bundle("1.0.0"), [key]))
    shutil.copytree(world.slots("good"), world.slots("trial"))
    trial = Slots(world.slots("trial"))
    slot = trial.install(world.bundle("2.0.0"), [key])
    shutil.copytree(world.slots("trial"), world.slots("back"))
    Slots(world.slots("back")).failed(slot, "slow")
    return world


def cut_short(world: World, case: Case, stop: int, scratch: Path, chance: random.Random) -> Iterator[Path]:
    """Do it but for step `stop` and what follows: the slots as a killed process leaves them, as a power cut does that
    takes all that was not synced, and as one that takes some of it. Nothing where there is no such step.
    """
    folder = scratch / "killed"
    shutil.copytree(world.slots(case.begins), folder)
    disk = FaultyDisk(folder, stop)
    try:
        case.do(Slots(folder, disk), world)
    except Killed:
        yield folder
        yield disk.after_a_power_cut(scratch / "cut", None)
        yield disk.after_a_power_cut(scratch / "cut-by-chance", chance)


def steps(world: World, case: Case, scratch: Path) -> int:
    """How many it takes."""
    folder = scratch / "whole"
    shutil.copytree(world.slots(case.begins), folder)
    disk = FaultyDisk(folder)
    case.do(Slots(folder, disk), world)
    shutil.rmtree(folder)
    return disk.steps


def boots(world: World, folder: Path, disk: Disk = DISK) -> str:
    """The version that a process which starts now decides with, on a picture; raises where it does not."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.pipeline import Pipeline

    slots = Slots(folder, disk)
    slot = slots.boot()
    bundle = open_bundle(slots.path(slot), [world.key])
    assert (bundle.manifest.version, bundle.digest) == (slot.version, slot.digest)
    pipeline = Pipeline(bundle)
    try:
        verdict = pipeline.predict({"camera": np.full((tiny.HEIGHT, tiny.WIDTH, 3), 240, np.uint8)}).verdict
    finally:
        pipeline.close()
    assert (verdict.label, verdict.source) == ("bright", "model")
    return slot.version
