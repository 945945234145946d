"""Whatever moment an update is killed at, and whatever the power cut took with it: a whole slot boots and decides."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import durable
from edge_runtime.slots import Slots
from tests.installs.cases import CASES, Case, World, boots, cut_short, make_world, steps
from tests.installs.disk import FaultyDisk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_at_any_step_a_whole_slot_boots_and_decides(case: Case, world: World, tmp_path: Path) -> None:
    """All steps of the short ones, a sixth of an installation's: `python -m tests.installs 1000` takes all."""
    chance = random.Random(1)
    count = steps(world, case, tmp_path)
    seen = set()
    for stop in range(chance.randrange(6) if count > 30 else 0, count, 6 if count > 30 else 1):
        for folder in cut_short(world, case, stop, tmp_path, chance):
            seen.add(boots(world, folder))
            shutil.rmtree(folder)
    assert seen and seen <= case.versions


def test_after_an_installation_that_was_cut_short_the_next_one_is_whole(world: World, tmp_path: Path) -> None:
    chance = random.Random(2)
    for stop in range(0, steps(world, CASES[0], tmp_path), 7):
        for folder in cut_short(world, CASES[0], stop, tmp_path, chance):
            slots = Slots(folder)
            slots.install(world.bundle("3.0.0"), [world.key])
            assert boots(world, folder) == "3.0.0"
            kept = {slot.folder for slot in slots.read().slots}
            assert {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} == {"state.json", *kept}
            shutil.rmtree(folder)


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_without_syncing_a_power_cut_would_be_noticed(
    forgotten: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of these tests does forget what was not synced."""
    original = FaultyDisk.sync

    def sync(self: FaultyDisk, path: Path) -> None:
        if path.is_dir() != (forgotten == "folders"):
            original(self, path)

    monkeypatch.setattr(FaultyDisk, "sync", sync)
    case = CASES[0]
    folder = tmp_path / "slots"
    shutil.copytree(world.slots(case.begins), folder)
    disk = FaultyDisk(folder)
    case.do(Slots(folder, disk), world)
    cut = disk.after_a_power_cut(tmp_path / "cut", None)
    if forgotten == "folders":
        assert boots(world, cut) == "1.0.0", "nothing of it has arrived"
    else:
        with pytest.raises(Exception, match=r"state.json is damaged"):
            boots(world, cut)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"old")
    for stop in range(5):
        folder = Path(shutil.copytree(tmp_path / "a", tmp_path / f"b{stop}"))
        disk = FaultyDisk(folder, stop)
        try:
            durable.replace_file(disk, folder / "f", b"new one")
        except BaseException:
            pass
        for number in range(20):
            cut = disk.after_a_power_cut(tmp_path / f"c{stop}-{number}", random.Random(number) if number else None)
            assert (cut / "f").read_bytes() in (b"old", b"new one")


def test_killed_at_random_times_by_a_signal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.installs", "12", "--only", "signals", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["tried"], report["lost"]) == (12, 0)
