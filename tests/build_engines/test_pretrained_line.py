"""A pretrained encoder through training and export: what is proven of its graph, and what goes with its weights."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import build_engines
from build_engines.data.datasets import RECIPE_FILE
from build_engines.modalities.vision.efficientnet_lite import EfficientNetLite0, _their_names
from build_engines.model.export import Equality, faithful
from build_engines.model.train import load_trained
from build_engines.recipe import Recipe, load_recipe
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.cli.bundle import bundle as bundle_commands
from edge_runtime.errors import ConfigError
from tests.build_engines.calling import call
from tests.build_engines.samples_folder import RECIPE, write_samples

PRETRAINED = """
kind = "pretrained"
file = "lite0.pth"
network = "efficientnet-lite0"
unfreeze = 1
views = 2
dropout = 0.0
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward")
    torch.manual_seed(0)
    network = EfficientNetLite0()
    names = _their_names(network)
    torch.save({names[name]: value for name, value in network.state_dict().items()}, folder / "lite0.pth")
    (folder / "LICENSE").write_text("Use it gently.")
    recipe = re.sub(r'widths = \[4, 8\]\npool = "grid"\ndropout = 0.0\n', PRETRAINED.lstrip(), RECIPE)
    recipe = re.sub(r"epochs = \d+", "epochs = 2", recipe)
    (folder / "ward.toml").write_text(recipe)
    for split, count, seed in (("train", 48, 1), ("val", 24, 2)):
        write_samples(folder / "data", split, count, seed)
    arguments = ("--data", folder / "data", "--out", folder / "out", "--work", folder / "work", "--to", "export")
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "run", folder / "ward.toml", *arguments) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(built: Path) -> Bundle:
    return open_bundle(built / "work" / "ward" / "train" / "model", allow_unsigned=True)


def test_the_frozen_part_s_graph_is_proven_to_be_the_network(bundle: Bundle) -> None:
    equality = msgspec.json.decode(bundle.read("report/equality.json"), type=Equality)
    assert 0.9999 <= equality.pretrained["vision"] <= 1.000001


def test_a_network_that_was_changed_is_found_out(built: Path) -> None:
    work = built / "work" / "ward" / "train"
    recipe = load_recipe(built / "ward.toml")[0]
    assert isinstance(recipe, Recipe)
    trained = load_trained(recipe, work)
    recipe = msgspec.structs.replace(recipe, streams=trained.record.streams)
    with np.load(work / "samples.npz") as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    with torch.no_grad():
        for value in trained.model.encoders["vision"].frozen.parameters():
            value.add_(0.3 * torch.randn_like(value))
    assert faithful(recipe, trained, samples)["vision"] < 0.9999


def test_what_frozen_blocks_made_is_kept_in_the_work_folder(built: Path) -> None:
    cache = built / "work" / "ward" / "cache"
    (rows,) = cache.glob("vision-*.rows")
    assert rows.stat().st_size > 0
    assert rows.stat().st_size % (320 * 4) == 0


def test_licence_and_credit_go_with_the_weights(built: Path, bundle: Bundle) -> None:
    text = bundle.read("licences/vision.txt").decode()
    assert "Use it gently." in text and "lite0.pth" in text
    assert any("efficientnet-lite0, from lite0.pth" in line for line in bundle.manifest.attribution)
    assert len(bundle.manifest.training["vision_pretrained_sha256"]) == 64
    assert str(built) not in bundle.read(RECIPE_FILE).decode(), "where things lie on this machine is nobody's business"


def test_inspect_shows_them(bundle: Bundle) -> None:
    shown = CliRunner().invoke(bundle_commands, ["inspect", str(bundle.path), "--allow-unsigned"])
    assert "efficientnet-lite0, from lite0.pth" in shown.output
    assert re.search(r"licences/vision.txt: \d+ lines", shown.output)
    whole = CliRunner().invoke(bundle_commands, ["inspect", str(bundle.path), "--allow-unsigned", "--licences"])
    assert "Use it gently." in whole.output


def test_weights_that_are_gone_are_named(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ward.toml").write_text((built / "ward.toml").read_text())
    arguments = ("--data", built / "data", "--out", tmp_path / "out", "--work", tmp_path / "work", "--to", "train")
    assert call(monkeypatch, "run", tmp_path / "ward.toml", *arguments) == 2
    assert "lite0.pth', which is not there" in capsys.readouterr().err


def test_blending_pictures_that_are_kept_is_refused(tmp_path: Path) -> None:
    city = (Path(build_engines.__file__).parent / "recipes" / "city.toml").read_text()
    (tmp_path / "city.toml").write_text(city.replace("[train.augment]\n", "[train.augment]\nmixup = 0.2\n"))
    with pytest.raises(ConfigError, match="mixup and cutmix blend pictures"):
        load_recipe(tmp_path / "city.toml")
    (tmp_path / "city.toml").write_text((tmp_path / "city.toml").read_text().replace("views = 4", "views = 0"))
    load_recipe(tmp_path / "city.toml")
