"""`check`, `cameras`, `duty` and `compare` as commands, in their shortest form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import check, duty
from benchmarks.__main__ import benchmarks
from benchmarks.compare import differences
from benchmarks.results import Judged, budgets
from edge_runtime.cli import EXIT_GATE, EXIT_USER, run_command


def short(seconds: float = 3.0) -> check.Short:
    return check.Short("shipped:vehicle", 1, seconds, quiet=False)


def test_check_says_of_every_figure_whether_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [Judged("a", 1.0, 2.0), Judged("b", 3.0, 2.0)]
    monkeypatch.setitem(check.PARTS, "cold", lambda asked: figures)
    arguments = ["check", "--only", "cold", "--rounds", "1", "--out", str(tmp_path)]
    assert run_command(benchmarks, arguments) == EXIT_GATE
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["held"] is False and found["figures"]["b"] == {"figure": "b", "value": 3.0, "limit": 2.0, "unless": ""}
    assert {"cores", "governor", "load_before", "load_after", "quiet", "numpy"} <= found["machine"].keys()
    del figures[1]
    result = CliRunner().invoke(benchmarks, arguments)
    assert result.exit_code == 0 and "a " in result.output and "50%" in result.output and "yes" in result.output


def test_the_short_form_of_a_benchmark_is_that_benchmark(tmp_path: Path) -> None:
    """Measured, so it may be held or not on this machine; every limit is there."""
    arguments = ["check", "--only", "cameras", "--rounds", "1", "--seconds", "3", "--out", str(tmp_path)]
    assert run_command(benchmarks, arguments) in (0, EXIT_GATE)
    (item,) = json.loads((tmp_path / "check.json").read_text())["figures"].values()
    assert item["figure"] == "4 cameras: frames dropped" and item["limit"] == budgets()["cameras"]["dropped"]


def test_every_latency_that_has_a_limit_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = {"p50_ratio": 0.1, "p99_ratio": 0.1, "cpu_ratio": 0.1, "replaced": 0, "memory_mb": 100.0}
    asked: dict[str, list[str]] = {}

    def measure(runs: dict[str, Any], sizes: tuple[str], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
        asked[sizes[0]] = [*runs]
        return {sizes[0]: dict.fromkeys(runs)}

    monkeypatch.setattr(check, "measure", measure)
    monkeypatch.setattr(check, "figures_of", lambda found: dict.fromkeys(found, figure))
    monkeypatch.setattr(check, "table", lambda size, found: "")
    judged = {item.figure for item in check._latency(short())}
    limits = budgets()["latency"]
    assert judged >= {
        f"{size}, {name}: {one}" for size in limits for name in limits[size] for one in limits[size][name]
    }
    assert "640x360, staged: resident MiB" in judged
    assert all(asked[size][0] == "user's loop" and len(asked[size]) == 1 + len(limits[size]) for size in limits)


def test_hogs_end_with_their_block() -> None:
    with pytest.raises(ZeroDivisionError), duty.hogs(2) as running:
        assert len(running) == 2 and all(process.poll() is None for process in running)
        raise ZeroDivisionError
    assert all(process.poll() is not None for process in running)


def test_duty_measures_every_variant_and_draws_them(tmp_path: Path) -> None:
    arguments = ["duty", "--hogs", "1", "--rounds", "1", "--seconds", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(benchmarks, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "duty.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "duty.json").read_text())
    assert [*found["pictures"]["640x360"]][:4] == [
        "user's loop",
        "runtime, staged",
        "user's loop, hogs beside it",
        "runtime, staged, hogs beside it",
    ]


def test_cameras_are_counted_and_drawn_and_a_run_compares_with_itself(tmp_path: Path) -> None:
    arguments = ["cameras", "--counts", "2", "--rounds", "1", "--seconds", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(benchmarks, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cameras.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "cameras.json").read_text())["cameras"]["2"]["frames"] == 180
    path = str(tmp_path / "cameras.json")
    result = CliRunner().invoke(benchmarks, ["compare", path, path])
    assert result.exit_code == 0 and "1.00" in result.output and "p99_ms" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("name", "arguments", "figures"),
    [
        ("latency", ["--rounds", "1", "--seconds", "3", "--pictures", "320x180"], {"pictures", "method"}),
        ("subscribers", ["--rounds", "1", "--seconds", "3", "--counts", "1,3"], {"subscribers", "p99_ratio"}),
        ("doors", ["--rounds", "1", "--seconds", "3"], {"doors", "method"}),
        ("overload", ["--seconds", "3"], {"served_hz", "p99_ms", "method"}),
        ("soak", ["--minutes", "0.05"], {"resident_mb", "growth_mb"}),
    ],
)
def test_every_other_command_runs_and_says_what_it_did(
    tmp_path: Path, name: str, arguments: list[str], figures: set[str]
) -> None:
    result = CliRunner().invoke(benchmarks, [name, *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert figures <= found.keys() and found["benchmark"] == name
    assert found["settings"]["bundle"] == "shipped:vehicle"


ALIKE: dict[str, Any] = {
    "benchmark": "cold",
    "machine": {"cpu": "c", "cores": 2, "governor": "g", "python": "3.11.7", "numpy": "2.0", "quiet": True},
    "settings": {"rounds": 5},
    "method": "m",
    "first_decision_s": 1.0,
}


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("machine", "cpu", "another", "cpu c and another"),
        ("machine", "cores", 4, "cores 2 and 4"),
        ("machine", "governor", "performance", "governor g and performance"),
        ("machine", "python", "3.12.0", "python 3.11.7 and 3.12.0"),
        ("machine", "numpy", "2.1", "numpy 2.0 and 2.1"),
        ("settings", "rounds", 3, "rounds 5 and 3"),
        ("settings", "seconds", 3, "seconds None and 3"),
        ("", "method", "another", "another method"),
        ("", "benchmark", "soak", "benchmark cold and soak"),
    ],
)
def test_unlike_runs_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, key: str, value: object, said: str
) -> None:
    unlike = ALIKE | ({part: ALIKE[part] | {key: value}} if part else {key: value})
    for name, found in (("a", ALIKE), ("b", unlike)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert run_command(benchmarks, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "unlike runs" in line


def test_another_version_of_the_runtime_is_what_one_compares_and_a_busy_machine_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = ALIKE | {"machine": ALIKE["machine"] | {"edge_runtime": "9", "quiet": False}, "first_decision_s": 0.5}
    assert list(differences(ALIKE, later)) == []
    for name, found in (("a", ALIKE), ("b", later)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert run_command(benchmarks, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    shown = capsys.readouterr().out
    assert "0.50" in shown and "B: the machine was not quiet" in shown and "A: the machine" not in shown


@pytest.mark.parametrize("content", [None, "{", "[]", '{"machine": {}}'])
def test_what_is_no_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert run_command(benchmarks, ["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == EXIT_USER
    assert len(capsys.readouterr().err.splitlines()) == 1
