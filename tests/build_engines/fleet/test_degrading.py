"""Degradation over recordings one by one: the figures of the degrade command on the same moments."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from build_engines.data.recordings import read
from build_engines.evaluation.degrade import Matrix, degrade
from build_engines.fleet.degrading import Degraded, Degrading, matrix_of
from build_engines.fleet.executors import executor_of
from build_engines.fleet.gather import Gathered, Work, gather
from build_engines.fleet.recordings import find
from build_engines.fleet.task import encoded
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from tests.build_engines.calling import call
from tests.build_engines.fleet.drives import CUT, GOOD, POISONED

LABELLED = GOOD[:-1]


def degraded(fleet: Path, bundle: Bundle, workers: int) -> Gathered[Degraded]:
    executor = executor_of("local", workers, None)
    return gather(Degrading.of(bundle), Degraded, find([fleet]), Work(executor, None, Console(quiet=True)))


@pytest.fixture(scope="module")
def found(fleet: Path, bundle: Bundle) -> Gathered[Degraded]:
    return degraded(fleet, bundle, 1)


def together(fleet: Path, bundle: Bundle, names: tuple[str, ...], folder: Path) -> Matrix:
    """The recordings as one split, as `build-engines degrade` measures it."""
    (folder / "val").mkdir(parents=True)
    for name in names:
        for suffix in (".mcap", ".csv"):
            (folder / "val" / f"{name.replace('/', '-')}{suffix}").symlink_to(fleet / f"{name}{suffix}")
    pipeline = Pipeline(bundle)
    try:
        return degrade(pipeline, partial(read, folder, "val", pipeline.streams))
    finally:
        pipeline.close()


def test_of_one_recording_all_is_as_the_command_measures_it(
    fleet: Path, bundle: Bundle, found: Gathered[Degraded], tmp_path: Path
) -> None:
    name = LABELLED[0]
    assert matrix_of(bundle, {name: found.partials[name]}) == together(fleet, bundle, (name,), tmp_path)


def test_of_all_what_is_missing_and_what_is_late_is_as_of_all_moments_together(
    fleet: Path, bundle: Bundle, found: Gathered[Degraded], tmp_path: Path
) -> None:
    whole, all_together = matrix_of(bundle, found.partials), together(fleet, bundle, LABELLED, tmp_path)
    drawn = [cell.name for cell in whole.cells if cell.kind == "fault"]
    assert len(drawn) > 3 and [cell.name for cell in all_together.cells if cell.kind == "fault"] == drawn
    assert [cell for cell in whole.cells if cell.kind != "fault"] == [
        cell for cell in all_together.cells if cell.kind != "fault"
    ]
    for one in ("count", "majority", "majority_figure", "majority_accuracy", "alone", "figure_key"):
        assert getattr(whole, one) == getattr(all_together, one)
    assert whole.count > 40 and set(found.partials) == {*GOOD, CUT}
    assert [name for name, one in found.partials.items() if one.unlabelled] == [
        name for name in found.partials if name not in LABELLED
    ]


def test_two_workers_find_the_same_whatever_recordings_are_called(
    fleet: Path, bundle: Bundle, found: Gathered[Degraded], tmp_path: Path
) -> None:
    names = LABELLED[1::-1]
    for number, name in enumerate(names):
        for suffix in (".mcap", ".csv"):
            (tmp_path / f"{number}{suffix}").symlink_to(fleet / f"{name}{suffix}")
    others = degraded(tmp_path, bundle, 2).partials
    for number, name in enumerate(names):
        assert encoded(others[str(number)]) == encoded(found.partials[name])
    assert matrix_of(bundle, others) == matrix_of(bundle, {name: found.partials[name] for name in names})


def test_the_command_writes_the_matrix_and_says_where_nothing_is_labelled(
    fleet: Path, bundle: Bundle, found: Gathered[Degraded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = ("--bundle", bundle.path, "--allow-unsigned", "--workers", 1)
    recordings = [fleet / f"{name}.mcap" for name in (LABELLED[0], GOOD[-1], POISONED)]
    matrix = matrix_of(bundle, {LABELLED[0]: found.partials[LABELLED[0]]})
    expected = 0 if matrix.passed else 3
    assert call(monkeypatch, "fleet", "degrade", *recordings, *options, "--report", tmp_path) == expected
    assert msgspec.json.decode((tmp_path / "degradation.json").read_bytes(), type=Matrix) == matrix
    assert (tmp_path / "degradation.md").read_text().startswith("# tiny 1.0.0 over 1 labelled recordings")
    assert (tmp_path / "degradation.png").read_bytes().startswith(b"\x89PNG")
    capfd.readouterr()
    assert call(monkeypatch, "fleet", "degrade", fleet / f"{GOOD[-1]}.mcap", *options) == 2
    assert "no recording says what was right" in capfd.readouterr().err
    with pytest.raises(UserError, match="no recording says what was right"):
        matrix_of(bundle, {"a": Degraded(unlabelled=1)})
