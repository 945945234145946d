"""What nothing else beats in both is on the front of accuracy against time; bundles are placed there untrained."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from build_engines.comparison.compare_bundles import names_of
from build_engines.comparison.contest import Contest, Row
from build_engines.comparison.front import Place, beats, places
from build_engines.heads.intervals import Interval
from build_engines.heads.labelled import LabelPairs
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import UserError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from tests import tiny
from tests.build_engines.calling import call

COUNT = 400


def contest_of(right: dict[str, int]) -> Contest:
    """Contestants that say the right one of two labels in so many of 400 moments, in the first ones."""
    groups = [str(index) for index in range(COUNT)]
    truth = ["a", "b"] * (COUNT // 2)
    contest = Contest(groups, 0)
    for name, count in right.items():
        said = [label if place < count else "ba"[place % 2] for place, label in enumerate(truth)]
        contest.add(name, "bundle", LabelPairs(truth, said, ("a", "b"), groups))
    return contest


def placed(right: dict[str, int], ms: dict[str, float | None]) -> dict[str, Place]:
    contest = contest_of(right)
    rows = [msgspec.structs.replace(row, ms=ms[row.name]) for row in contest.rows]
    return {place.name: place for place in places(contest, rows)}


def test_the_front_is_what_nothing_beats_in_both() -> None:
    found = placed(
        {"quick": 300, "best": 380, "poor": 280, "middle": 340, "as quick, worse": 290, "here only": 400},
        {"quick": 1.0, "best": 9.0, "poor": 5.0, "middle": 4.0, "as quick, worse": 1.0, "here only": None},
    )
    assert list(found) == ["quick", "as quick, worse", "middle", "poor", "best"], "the fastest first"
    behind = {name: place.behind for name, place in found.items() if place.behind}
    assert behind == {"as quick, worse": "quick", "poor": "quick"}
    assert (found["quick"].words, found["poor"].words) == ("front: the fastest", "behind quick")
    bought = found["best"].bought
    assert bought is not None and bought.value == pytest.approx(0.1, abs=0.01) and bought.low > 0
    assert found["best"].slower_ms == pytest.approx(5.0), "against the next faster one of the front"
    assert found["best"].words.endswith("for 5.00 ms more")


def test_what_luck_may_have_bought_is_said() -> None:
    found = placed({"quick": 360, "slow": 361}, {"quick": 1.0, "slow": 2.0})
    assert found["slow"].words.endswith("for 1.00 ms more, not proven")


def test_equals_are_both_on_it() -> None:
    assert all(not place.behind for place in placed({"one": 300, "other": 300}, {"one": 1.0, "other": 1.0}).values())
    row = Row("x", "bundle", Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6), ms=1.0)
    assert not beats(row, row)
    assert beats(msgspec.structs.replace(row, ms=0.5), row)


def test_bundles_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    paths = [tiny.write_bundle(tmp_path / name) for name in ("old/net", "new/net", "other")]
    bundles = [open_bundle(path, allow_unsigned=True) for path in paths]
    assert names_of([bundles[0], bundles[2]]) == ["net", "other"]
    assert names_of(bundles) == ["old/net", "new/net", f"{tmp_path.name}/other"]
    with pytest.raises(UserError, match="given twice"):
        names_of([bundles[0], bundles[0]])


RECIPE = """
name = "tiny"
version = "1.0.0"
layout = "images"
labels = ["bright", "dark", "stop", "high"]
trigger = "camera"
[streams.camera]
kind = "camera"
width = 32
height = 24
rate_hz = 30.0
max_age_ms = 300.0
[decision]
safe_label = "dark"
[onnx]
output = "stage:net:logits"
[[onnx.stages]]
name = "net"
file = "net.onnx"
[onnx.stages.inputs.image]
source = "stream:camera:image"
[budget]
ms = 0.0001
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures, a bundle that tells them apart, one that is wrong each time, one with other labels."""
    folder = tmp_path_factory.mktemp("bundles")
    rng = np.random.default_rng(0)
    for label, low in (("bright", 180), ("dark", 20)):
        (folder / "data" / "val" / label).mkdir(parents=True)
        for index in range(6):
            picture = rng.integers(low, low + 50, (24, 32, 3)).astype(np.uint8)
            assert cv2.imwrite(str(folder / "data" / "val" / label / f"{index}.png"), picture)
    tiny.write_bundle(folder / "right")
    tiny.write_bundle(folder / "wrong", scale=-1.0)
    head = SoftmaxHead(tuple("bdsh"), "stage:fusion:logits")
    tiny.write_bundle(folder / "other", policy=DecisionPolicy("s"), head=head)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def test_bundles_are_compared_without_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (folder / "tiny.toml", "--data", folder / "data", "--work", tmp_path, "--report", tmp_path / "said")
    two = ("--bundle", folder / "right", "--bundle", folder / "wrong")
    assert call(monkeypatch, "compare", *common, *two, "--allow-unsigned") == 0
    said = capsys.readouterr().out
    assert "beyond budget.ms = 0.0001" in said and "right beats wrong" in said
    found = msgspec.json.decode((tmp_path / "said" / "compare.json").read_bytes())
    by_name = {row["name"]: row for row in found["rows"]}
    assert by_name["right"]["figure"]["value"] == 1.0 and by_name["wrong"]["accuracy"]["value"] == 0.0
    assert all(row["ms"] > 0 for row in found["rows"])
    assert {place["name"] for place in found["front"]} == {"right", "wrong"}
    assert not next(place for place in found["front"] if place["name"] == "right")["behind"]
    assert (tmp_path / "said" / "front.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (folder / "tiny.toml", "--data", folder / "data", "--work", tmp_path)
    for arguments, why in (
        ((), "there is nothing to train: give bundles to compare (--bundle)"),
        (("--bundle", folder / "right"), "it is not signed"),
        (("--bundle", folder / "right", "--bundle", folder / "other", "--allow-unsigned"), "compare like with like"),
    ):
        assert call(monkeypatch, "compare", *common, *arguments) == 2
        assert why in capsys.readouterr().err
