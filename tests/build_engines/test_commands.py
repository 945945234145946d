"""The commands by their command lines: what they write, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from build_engines.recipe import Recipe
from build_engines.run import make_build
from build_engines.stages.export import export_stage
from build_engines.stages.train import train_stage
from tests.build_engines.calling import call


@pytest.fixture(scope="module")
def bundle(recipe: Recipe, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    short = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, epochs=8))
    build = make_build(short, "0" * 64, world, work, work, Console(quiet=True))
    train_stage(build)
    export_stage(build)
    return build.work / build.model


def test_evaluate_writes_report_and_tests_against_a_rival(
    bundle: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("evaluate", "--bundle", bundle, "--data", world, "--allow-unsigned")
    rival = tmp_path / "rival.jsonl"
    assert call(monkeypatch, *base, "--predictions", rival) == 0
    capsys.readouterr()
    assert call(monkeypatch, *base, "--report", tmp_path / "report", "--rival", rival) == 0
    printed = capsys.readouterr().out
    assert "not proven better or worse than" in printed and "macro-F1" in printed
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["findings"]["rival"]["p_value"] == 1.0
    assert found["findings"]["latency_ms"]["total"]["p50"] > 0
    assert found["findings"]["confidence"]["shipped"]["ece"] <= 1
    assert {"report.md", "report.html", "confusion.png"} <= {path.name for path in (tmp_path / "report").iterdir()}
    assert call(monkeypatch, *base, "--rival", bundle) == 0
    assert call(monkeypatch, *base, "--rival", tmp_path / "nothing") == 2


def test_degrade_writes_its_table_and_refuses_with_3_what_fails_a_check(
    bundle: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = call(
        monkeypatch, "degrade", "--bundle", bundle, "--data", world, "--allow-unsigned", "--moments", 64,
        "--report", tmp_path,
    )  # fmt: skip
    found = json.loads((tmp_path / "degradation.json").read_text())
    assert found["count"] == 64
    assert code == (0 if found["passed"] else 3)
    assert (tmp_path / "degradation.png").read_bytes()[:4] == b"\x89PNG"
    late = {one["name"]: one for one in found["cells"] if one["kind"] == "late"}
    assert late["everything 2x"]["safe"] == 1.0
    assert late["camera.front 2x"]["safe"] == 1.0


def test_evaluate_improve_writes_what_it_tried(
    bundle: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("evaluate", "--bundle", bundle, "--data", world, "--allow-unsigned")
    assert call(monkeypatch, *base, "--improve", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "improve.json").read_text())
    assert [one["step"] for one in found["attempts"]] == ["temperature", "thresholds"]
    kept = any(one["kept"] for one in found["attempts"])
    assert (tmp_path / "out" / "bundle").is_dir() == kept


@pytest.mark.parametrize("command", ["compare", "improve"])
def test_a_recipe_that_is_not_there_is_the_user_s_mistake(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, command, tmp_path / "none.toml", "--data", tmp_path) == 2
