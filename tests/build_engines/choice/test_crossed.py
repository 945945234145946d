"""Trainings without each fold: in processes, kept, and not done twice."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from build_engines.choice import crossed as module
from build_engines.choice.crossed import crossed
from build_engines.data.folds import grouped
from build_engines.data.samples import prepare
from build_engines.recipe import Recipe, load_recipe
from calibration.spread import WORKERS
from tests.build_engines.samples_folder import RECIPE, write_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossed")
    (folder / "ward.toml").write_text(RECIPE.replace("epochs = 25", "epochs = 2").replace("folds = 0", "folds = 2"))
    write_samples(folder / "data", "train", 40, 1)
    write_samples(folder / "data", "val", 20, 2)
    return folder


@pytest.fixture(scope="module")
def ward(folder: Path) -> Recipe:
    found, _ = load_recipe(folder / "ward.toml")
    assert isinstance(found, Recipe)
    return found


def run(ward: Recipe, folder: Path, work: str) -> tuple[module.LeftOut, str]:
    said = io.StringIO()
    found = crossed({"own": ward}, folder / "data", "digest", folder / work, Console(file=said, width=200))
    return found["own"], said.getvalue()


def test_two_processes_give_what_one_gives_and_nothing_is_done_twice(
    folder: Path, ward: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS, "1")
    first, said = run(ward, folder, "one")
    assert [line.split(":")[0] for line in said.splitlines()] == ["choose"] * 2
    assert "2 of 2 trainings" in said and "macro-F1" in said
    again, nothing = run(ward, folder, "one")
    assert nothing == ""
    kept = next((folder / "one" / "crossed").glob("*/1.npz"))
    kept.unlink()
    _, one_line = run(ward, folder, "one")
    assert one_line.startswith("choose: 2 of 2") and one_line.count("\n") == 1
    monkeypatch.setenv(WORKERS, "2")
    other, _ = run(ward, folder, "two")
    for found in (again, other):
        assert found.groups == first.groups
        assert np.array_equal(found.folds, first.folds)
        assert np.allclose(found.outputs[""][0], first.outputs[""][0], atol=1e-5)


def test_every_moment_is_left_out_once_with_its_whole_group(
    folder: Path, ward: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS, "1")
    found, _ = run(ward, folder, "one")
    assert len(found.groups) == 40
    by_group: dict[str, set[int]] = {}
    for group, fold in zip(found.groups, found.folds.tolist(), strict=True):
        by_group.setdefault(group, set()).add(fold)
    assert len(by_group) == 20
    assert all(len(folds) == 1 for folds in by_group.values())
    # What is trained on is the rest: rows of a fold's source and its judged rows are all rows.
    prepared = prepare(ward, folder / "data", folder)
    assert prepared.folds is not None
    for make in prepared.folds(2, ward.seed):
        fold = make()
        judged = sum(len(batch.label) for batch in fold.judged)
        assert judged == len(fold.groups)
        assert fold.train.counts.sum() + judged == 40


def test_other_settings_of_the_training_are_another_training(folder: Path, ward: Recipe) -> None:
    keys = {
        module._key(recipe, "digest")
        for recipe in (
            ward,
            msgspec.structs.replace(ward, train=msgspec.structs.replace(ward.train, epochs=3)),
            msgspec.structs.replace(ward, seed=4),
        )
    }
    assert len(keys) == 3
    moved = msgspec.structs.replace(ward, train=msgspec.structs.replace(ward.train, offsets=True))
    assert module._key(moved, "digest") == module._key(ward, "digest") != module._key(ward, "other")


def test_folds_tear_no_group_apart_and_share_the_strata() -> None:
    strata = np.repeat([0, 1], 60)
    groups = [f"g{index // 6}" for index in range(120)]
    seen = []
    for fit, left in grouped(strata, groups, 5, 0):
        assert not {groups[row] for row in fit} & {groups[row] for row in left}
        assert sorted([*fit, *left]) == list(range(120))
        assert abs(strata[left].mean() - 0.5) < 0.2
        seen += left.tolist()
    assert sorted(seen) == list(range(120))
    assert len(grouped(strata, ["a", "b"] * 60, 5, 0)) == 2
    assert grouped(strata, ["a"] * 120, 5, 0) == []
