"""Running stages: what stands is left out, and what makes its results is known, data, settings and code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from build_engines import code, run
from build_engines.build import Build
from build_engines.recipe import Recipe
from build_engines.stages.stage import BuildStage

TRAINER = "build_engines.model.train"


class Counted:
    """Two stages that write a file each, and how often each has run."""

    def __init__(self) -> None:
        self.runs = {"first": 0, "second": 0}

    def stage(self, name: str, module: str, requires: tuple[str, ...]) -> BuildStage:
        def write(build: Build) -> None:
            self.runs[name] += 1
            (build.work / name).write_text(f"made by {name}")

        return BuildStage(
            write,
            code=(module,),
            requires=lambda build: requires,
            ensures=lambda build: (name,),
            settings=lambda build: build.recipe.seed,
            splits=lambda build: ("train",) if name == "first" else (),
        )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    table = {
        "first": counted.stage("first", TRAINER, ()),
        "second": counted.stage("second", "build_engines.write_bundle", ("first",)),
    }
    monkeypatch.setattr(run, "stages_of", lambda recipe: table)
    return counted


@pytest.fixture
def build(recipe: Recipe, tmp_path: Path) -> Build:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "rows").write_text("one")
    recipe = msgspec.structs.replace(recipe, layout="samples")
    return run.make_build(recipe, "0" * 64, tmp_path / "data", tmp_path, tmp_path / "work", Console(quiet=True))


def test_nothing_is_built_twice_unless_it_is_asked_for(counted: Counted, build: Build) -> None:
    run.run(build)
    run.run(build)
    assert counted.runs == {"first": 1, "second": 1}
    run.run(build, first="second", force=True)
    assert counted.runs == {"first": 1, "second": 2}


def test_a_changed_trainer_trains_again_and_nothing_else(
    counted: Counted, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.run(build)
    original = code.source_of
    source = original(TRAINER)
    assert source is not None
    changed = tmp_path / "train.py"
    changed.write_bytes(source.read_bytes() + b"\n# another way to train\n")
    monkeypatch.setattr(code, "source_of", lambda name: changed if name == TRAINER else original(name))
    run.run(build)
    assert counted.runs == {"first": 2, "second": 1}, "what the first made is the same: the second stands"


def test_other_data_other_settings_and_a_touched_result_are_noticed(
    counted: Counted, build: Build, tmp_path: Path
) -> None:
    run.run(build)
    (tmp_path / "data" / "train" / "rows").write_text("another")
    fresh = run.make_build(build.recipe, "0" * 64, tmp_path / "data", tmp_path, tmp_path / "work", build.console)
    run.run(fresh)
    assert counted.runs == {"first": 2, "second": 1}
    (build.work / "second").write_text("touched")
    run.run(fresh)
    assert counted.runs == {"first": 2, "second": 2}
    seeded = msgspec.structs.replace(build.recipe, seed=build.recipe.seed + 1)
    run.run(run.make_build(seeded, "0" * 64, tmp_path / "data", tmp_path, tmp_path / "work", build.console))
    assert counted.runs == {"first": 3, "second": 3}
