"""A quantisation that hurts: the sensitivity pass avoids it, and the gate refuses it where it is forced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from build_engines.cli import cli
from edge_runtime.bundle import open_bundle
from edge_runtime.cli import run_command


def _run(*arguments: object) -> int:
    return run_command(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def everything(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe, but the fusion head may be quantised too."""
    path = tmp_path_factory.mktemp("everything") / "everything.toml"
    path.write_text(recipe_file.read_text().replace('["vision", "text"]', '["vision", "text", "fusion"]'))
    return path


@pytest.fixture(scope="module")
def ruined(everything: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build up to the quantise stage, with ranges of text and fusion that clip nearly everything away."""
    folder = tmp_path_factory.mktemp("ruined")
    base = (everything, "--data", world, "--out", folder / "out", "--work", folder / "work")
    assert _run("run", *base, "--to", "calibrate") == 0
    ranges = folder / "work" / "tiny" / "calibration" / "ranges.json"
    read = json.loads(ranges.read_text())
    for stage in ("text", "fusion"):
        for one in read["stages"][stage].values():
            one["thresholds"] = {method: value / 1000 for method, value in one["thresholds"].items()}
    ranges.write_text(json.dumps(read))
    assert _run("quantise", *base) == 0
    return folder


def test_the_plan_leaves_the_stage_in_half_and_its_int8_does_not_ship(
    ruined: Path, everything: Path, world: Path
) -> None:
    plan = json.loads((ruined / "work" / "tiny" / "quantised" / "plan.json").read_text())
    for stage in ("text", "fusion"):
        assert plan["choices"][stage]["precision"] == "fp16"
        assert any(reason.startswith(f"{stage}: INT8 loses too much") for reason in plan["reasons"])
    base = (everything, "--data", world, "--out", ruined / "out", "--work", ruined / "work")
    assert _run("run", *base, "--from", "compile") == 0
    bundle = open_bundle(ruined / "out" / "tiny", [ruined / "out" / "tiny.pem"])
    precisions = {stage.name: set(stage.files) for stage in bundle.manifest.stages}
    assert "int8" not in precisions["text"] | precisions["fusion"]
    assert "text: INT8 loses too much" in bundle.read("report/gate.md").decode()


@pytest.mark.parametrize("stage", ["text", "fusion"])
def test_forced_it_falls_back_and_says_so_or_ends_with_3_and_names_it(
    ruined: Path, everything: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(ruined / "work", work)
    plan = work / "tiny" / "quantised" / "plan.json"
    read = json.loads(plan.read_text())
    read["choices"][stage] = {"precision": "int8", "method": "minmax"}
    plan.write_text(json.dumps(read))
    rigid = tmp_path / "rigid.toml"
    rigid.write_text(everything.read_text().replace("min_gain = 0.01", "min_gain = 0.01\nfallback = false"))
    base = ("--data", world, "--out", tmp_path / "out", "--work", work, "--from", "compile")
    assert _run("run", rigid, *base) == 3
    said = capsys.readouterr().err
    assert "the reduced precision loses too much" in said
    assert "macro-F1" in said
    assert f"{stage} in int8 costs most" in said
    assert not (tmp_path / "out").exists()
    assert _run("run", everything, *base) == 0
    bundle = open_bundle(tmp_path / "out" / "tiny", allow_unsigned=True)
    assert bundle.manifest.precision["tensorrt"][stage] == "fp16"
    assert f"{stage} falls back to fp16" in bundle.read("report/gate.md").decode()
