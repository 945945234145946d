"""Over recordings one by one come the figures that evaluating them together gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from build_engines.comparison.contest import Contest
from build_engines.data.recordings import read
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.fleet.cells import EVERYTHING
from build_engines.fleet.executors import executor_of
from build_engines.fleet.gather import Work, gather
from build_engines.fleet.looking import Looking
from build_engines.fleet.recordings import Source, find
from build_engines.fleet.report import Report, report_of
from build_engines.fleet.tally import Look, Tally
from build_engines.recipe import DatasetRecipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.wire import DecisionMessage
from tests.build_engines.calling import call
from tests.build_engines.fleet.drives import CUT, FRAMES, GOOD

BY_WEATHER = DatasetRecipe(condition="weather")


def report(fleet: Path, *bundles: Bundle) -> Report:
    sources, task = find([fleet]), Looking.of(bundles, BY_WEATHER)
    found = gather(task, Look, sources, Work(executor_of("local", 1, None), None, Console(quiet=True)))
    return report_of(bundles, sources, found.partials, found.left_out)


@pytest.fixture(scope="module")
def found(fleet: Path, bundle: Bundle) -> Report:
    return report(fleet, bundle)


@pytest.fixture(scope="module")
def both(fleet: Path, bundle: Bundle, worse_bundle: Bundle) -> Report:
    return report(fleet, bundle, worse_bundle)


def together(fleet: Path, bundle: Bundle, folder: Path) -> Evaluation:
    """The labelled recordings as one split, evaluated as `build-engines evaluate` does."""
    (folder / "val").mkdir(parents=True)
    for name in GOOD[:-1]:
        for suffix in (".mcap", ".csv"):
            shutil.copy(fleet / f"{name}{suffix}", folder / "val" / f"{name.replace('/', '-')}{suffix}")
    pipeline = Pipeline(bundle)
    try:
        return evaluate(pipeline, read(folder, "val", pipeline.streams, BY_WEATHER))
    finally:
        pipeline.close()


def test_scores_and_intervals_are_those_of_all_moments_together(
    fleet: Path, bundle: Bundle, found: Report, tmp_path: Path
) -> None:
    whole = together(fleet, bundle, tmp_path)
    standing = found.standings[0]
    assert standing.scores == whole.scores and standing.model == whole.model
    pairs = whole.pairs()
    row = Contest(pairs.groups, 0).add("all", "bundle", pairs)
    cell = standing.cells[EVERYTHING]
    assert cell.figure_interval == row.figure
    assert cell.accuracy_interval is not None
    assert np.allclose(
        msgspec.structs.astuple(cell.accuracy_interval), msgspec.structs.astuple(row.accuracy), atol=2e-6
    )
    assert cell.labelled == len(GOOD) - 1 and cell.moments == len(whole.predictions) > 40
    assert standing.refused == dict(whole.refused)
    wet = [one for one in whole.predictions if one.condition == "wet"]
    assert standing.cells["wet"].accuracy == pytest.approx(sum(one.label == one.truth for one in wet) / len(wet))


def test_decisions_safe_reasons_and_ages_are_those_that_were_recorded(fleet: Path, found: Report) -> None:
    recorded = [
        event
        for name in (*GOOD, CUT)
        for event in Recording(fleet / f"{name}.mcap").events()
        if isinstance(event, DecisionMessage)
    ]
    standing = found.standings[0]
    assert standing.decisions == standing.as_live == len(recorded) > FRAMES * len(GOOD)
    safe = [one for one in recorded if one.source == "safe"]
    assert 0 < sum(standing.safe.values()) == len(safe) < len(recorded)
    assert all("#" in reason for reason in standing.safe), "confidence below the threshold"
    day = standing.cells["day"]
    assert day.recordings == 3 and day.decisions == 3 * FRAMES and day.safe_interval is not None
    assert standing.cells["night"].recordings == 3
    text = standing.ages["text"]
    assert text.absent == sum(not one.inputs["text"].present for one in recorded)
    ages = sorted(one.inputs["text"].age_ms or 0.0 for one in recorded if one.inputs["text"].present)
    assert text.p50_ms == pytest.approx(ages[(len(ages) - 1) // 2], rel=0.19)
    assert found.unlabelled == 2


def test_a_bundle_against_itself_differs_in_nothing(fleet: Path, bundle: Bundle) -> None:
    same = report(fleet, bundle, bundle)
    assert not same.apart and not same.failures
    gaps = same.gaps[EVERYTHING]
    assert gaps.figure == gaps.safe == gaps.accuracy
    assert gaps.figure is not None and (gaps.figure.value, gaps.figure.low, gaps.figure.high) == (0, 0, 0)


def test_a_worse_candidate_is_refused_with_what_it_has_lost(both: Report, found: Report) -> None:
    before, after = both.standings
    assert before == found.standings[0], "the first is judged as it would be by itself"
    assert before.scores is not None and after.scores is not None
    gap = both.gaps[EVERYTHING].figure
    assert gap is not None
    assert gap.value == pytest.approx(after.scores.figure - before.scores.figure, abs=1e-6)
    assert sum(both.apart.values()) > 0
    assert any(failure.startswith("model: ") for failure in both.failures)
    assert "wet" in both.gaps and "night" in both.gaps


def reduced(bundle: Bundle, safe: list[int], moments: int = 4) -> Report:
    """Of recordings of ten decisions each, of which the second bundle makes so many safely."""
    sources = [Source(f"r{number}", f"r{number}.mcap", "wet") for number in range(len(safe))]
    looks = {
        source.id: Look((
            Tally(10, decided={"": {"dark": {"dark": 4}}}, model={"": {"dark": {"dark": 4}}}),
            Tally(10, safe={"camera stale": count} if count else {},
                  decided={"": {"dark": {"dark": moments}}}, model={"": {"dark": {"dark": moments}}}),
        ))
        for source, count in zip(sources, safe, strict=True)
    }  # fmt: skip
    return report_of((bundle, bundle), sources, looks, {}, safe_rise=0.01)


@pytest.mark.parametrize(
    ("safe", "refused"),
    [([1, 1, 2, 1], True), ([0, 0, 0, 0], False), ([10, 0, 0, 0], False), ([3], True)],
    ids=["everywhere", "nowhere", "in one of four: not proven", "too few for an interval"],
)
def test_a_candidate_that_is_proven_to_decide_safely_more_often_is_refused(
    bundle: Bundle, safe: list[int], refused: bool
) -> None:
    found = reduced(bundle, safe)
    assert any(failure.startswith("everything: safe decisions 0.0000 -> ") for failure in found.failures) == refused
    assert any(failure.startswith("wet: safe decisions") for failure in found.failures) == refused


def test_bundles_that_were_judged_at_other_moments_cannot_be_compared(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="judged at 16 and 20 moments: their triggers differ"):
        reduced(bundle, [0, 0, 0, 0], moments=5)


def test_commands_write_their_reports_and_refuse_with_3(
    fleet: Path, bundle: Bundle, worse_bundle: Bundle, found: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = ("--allow-unsigned", "--workers", 1, "--condition", "weather")
    evaluate = ("fleet", "evaluate", fleet, "--bundle", bundle.path, *options)
    assert call(monkeypatch, *evaluate, "--report", tmp_path) == 0
    assert (tmp_path / "evaluation.json").read_bytes() == found.json()
    assert (tmp_path / "evaluation.md").read_text().startswith("# tiny 1.0.0 over 6 recordings")
    told = capfd.readouterr()
    assert "night/cut: its end is missing" in told.out and "left out: day/poisoned" in told.err
    compare = ("fleet", "compare", fleet, "--bundle", bundle.path, *options, "--work", tmp_path / "work")
    assert call(monkeypatch, *compare, "--candidate", worse_bundle.path, "--report", tmp_path) == 3
    assert json.loads((tmp_path / "comparison.json").read_text())["failures"]
    assert "refused: compare: model: macro-F1" in capfd.readouterr().err
    assert call(monkeypatch, *compare, "--candidate", bundle.path) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere",), "there is neither a folder nor a file"),
        (("empty",), "no *.mcap below"),
        (("one", "other"), "are both called 'a'"),
    ],
)
def test_recordings_that_are_not_there_are_one_line(
    arguments: tuple[str, ...], expected: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for folder in ("empty", "one", "other"):
        (tmp_path / folder).mkdir()
    for folder in ("one", "other"):
        (tmp_path / folder / "a.mcap").touch()
    places = [tmp_path / name for name in arguments]
    assert call(monkeypatch, "fleet", "evaluate", *places, "--bundle", bundle.path, "--allow-unsigned") == 2
    assert expected in capfd.readouterr().err


def test_a_list_names_recordings_and_folders_below_are_conditions(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "x.mcap").symlink_to(fleet / f"{GOOD[0]}.mcap")
    (tmp_path / "some.txt").write_text("day/x.mcap\n\n")
    (one,) = find([tmp_path / "some.txt"])
    assert (one.id, one.condition) == ("day/x", "day")
    (tmp_path / "other.txt").write_text("day/none.mcap\n")
    assert find([tmp_path / "other.txt"])[0].id == "day/none", "whether it can be read is told when it is"
    with pytest.raises(UserError, match="cannot be read"):
        find([tmp_path / "missing" / "x.txt"])
