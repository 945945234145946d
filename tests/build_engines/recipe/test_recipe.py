"""Recipes: strict, and wrong ones are told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import build_engines
from build_engines.cli import main
from build_engines.data.datasets import recipe_json
from build_engines.recipe import load_recipe
from edge_runtime.errors import ConfigError

SHIPPED = sorted((Path(build_engines.__file__).parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe, digest = load_recipe(path)
    assert recipe.name == path.stem
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs = 20", "epochz = 20", "epochz"),
        ('kind = "concat"', 'kind = "magic"', "magic"),
        ('safe_label = "none"', 'safe_label = "nothing"', "nothing"),
        ('trigger = "camera.front"', 'trigger = "camera.rear"', "camera.rear"),
        ('streams = ["camera.front"]', 'streams = ["text"]', "CameraStream"),
        ("dropout = { ", "dropout = { lidar = 0.1, ", "lidar"),
        ('version = "1.0.0"', "version = ", "not TOML"),
        ("features = 16", "features = 2", "4"),
        ("widths = [4, 8]", "widths = [4, 8]\nblocks = [1]", "residual"),
        ("widths = [4, 8]", 'widths = [4, 8]\nkind = "residual"\nblocks = [1, 1]', "blocks has 2 numbers"),
        ("[model]\n", '[decision.needs]\none = ["radar"]\n[model]\n', "radar"),
        ("[model]\n", '[decision.needs]\nloud = ["text"]\n[model]\n', "loud"),
        ("[model]\n", '[decision.needs]\nnone = ["text"]\n[model]\n', "withholds the safe label"),
        ("[train]", "[train.augment]\nmixup = 0.5\n[train]", "one camera alone"),
        ("[gate]\n", "[gate]\nnmae = 0.1\n", "gate.nmae judges no softmax head; set gate.macro_f1"),
    ],
)
def test_a_wrong_recipe_is_one_line_naming_the_value(
    recipe_file: Path, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    text = recipe_file.read_text()
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_the_command_line_exits_2_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["build-engines", "run", str(tmp_path / "absent.toml")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_recordings_lie_beside_the_recipe_and_a_bundle_does_not_say_where(recipe_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(recipe_file.read_text().replace("[calibrate]\n", '[calibrate]\nrecordings = ["a/drive.mcap"]\n'))
    recipe, _ = load_recipe(path)
    assert recipe.calibrate.recordings == (str(tmp_path / "a" / "drive.mcap"),)
    written = recipe_json(recipe)
    assert b'"drive.mcap"' in written and str(tmp_path).encode() not in written


def test_the_documented_recipe_of_nanodet_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/detections.md").read_text()
    (block,) = re.findall(r"```toml\n(name = \"nanodet\".*?)```", page, re.DOTALL)
    (tmp_path / "nanodet.toml").write_text(block)
    recipe, _ = load_recipe(tmp_path / "nanodet.toml")
    assert len(recipe.labels) == 80 and recipe.output_head.kind == "detection"
