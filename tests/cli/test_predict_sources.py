"""`predict` on pictures, folders, films, tables, texts and sentences: each thing as it is decided on by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime import Pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.drawing import COLOURS
from tests import tiny_detector
from tests.conftest import jpeg, noise


def predicted(bundle: Path, *arguments: object) -> int:
    return run_command(commands, ["predict", str(bundle), "--allow-unsigned", *map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "street"
    made.mkdir()
    (made / "b.jpg").write_bytes(jpeg(noise(250, 0)))
    (made / "a.jpg").write_bytes(jpeg(noise(5, 0)))
    cv2.imwrite(str(made / "c.png"), noise(250, 1))
    (made / "._c.png").write_bytes(b"what another system leaves")
    return made


def test_a_folder_of_pictures_in_the_order_of_names_each_decided_on_by_itself(
    tiny_bundle_path: Path, tiny_bundle: Bundle, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert predicted(tiny_bundle_path, folder, "--out", out, "--text", "go on") == 0
    told = lines(out)
    assert [Path(one["item"]).name for one in told] == ["a.jpg", "b.jpg", "c.png"]
    assert [one["label"] for one in told] == ["dark", "bright", "bright"]
    pipeline = Pipeline(tiny_bundle)
    for one in told:
        data = Path(one["item"]).read_bytes()
        content = data if data[:2] == b"\xff\xd8" else cv2.imread(one["item"])
        alone = pipeline.predict({"camera": content, "text": "go on"}).verdict
        assert (one["label"], one["confidence"]) == (alone.label, alone.confidence)
        assert one["inputs"]["text"]["present"]
    pipeline.close()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["dark", "bright", "bright"]


def test_what_is_refused_is_told_the_others_are_decided_on_and_the_exit_code_says_so(
    tiny_bundle_path: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.jpg").write_bytes(b"\xff\xd8 no picture")
    out = tmp_path / "out.jsonl"
    assert predicted(tiny_bundle_path, folder, "-o", out) == 2
    assert [Path(one["item"]).name for one in lines(out)] == ["a.jpg", "c.png"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "b.jpg" in errors[0] and "corrupt" in errors[0]
    assert errors[1] == "error: predict: 1 of 3 things were refused, 2 decided on"


def test_a_table_has_a_column_per_channel_and_a_bad_row_is_told(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "readings.csv", tmp_path / "out.jsonl"
    table.write_text("time,a,b\n0,90,1\n1,,2\n2,ninety,3\n3,-90,4\n")
    picture = tmp_path / "p.jpg"
    picture.write_bytes(jpeg(noise(120, 0)))
    assert predicted(tiny_bundle_path, table, "--out", out, "--image", f"camera={picture}") == 2
    assert [one["item"].rpartition("#")[2] for one in lines(out)] == ["2", "3", "5"]
    assert lines(out)[0]["label"] == "high" != lines(out)[2]["label"]
    assert "'a' is 'ninety', which is no number" in capsys.readouterr().err
    table.write_text("time,x\n0,1\n")
    assert predicted(tiny_bundle_path, table) == 2
    assert "no column is a channel of 'sensors' (a, b)" in capsys.readouterr().err


def test_sentences_from_a_file_and_from_the_command_line(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "said.txt", tmp_path / "out.jsonl"
    file.write_text("\ufeffplease stop now\n\n停 车\n", encoding="utf-8")
    picture = tmp_path / "p.jpg"
    picture.write_bytes(jpeg(noise(120, 0)))
    given = ("--image", f"camera={picture}", "--out", out)
    assert predicted(tiny_bundle_path, file, "go on then", *given) == 0
    assert [one["item"].removeprefix(str(file)) for one in lines(out)] == ["#1", "#3", "go on then"]
    assert lines(out)[0]["label"] == "stop" != lines(out)[2]["label"]
    for gone in ("away.jpg", "some/where", "said.csv"):
        assert predicted(tiny_bundle_path, gone) == 2
        assert f"{gone}: no such file or folder" in capsys.readouterr().err


def film(path: Path, frames: list[int], code: str = "MJPG") -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (64, 48))
    for brightness in frames:
        writer.write(np.full((48, 64, 3), brightness, np.uint8))
    writer.release()


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_a_film_is_decided_on_frame_by_frame_and_drawn_as_a_film(
    name: str, code: str, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    film(tmp_path / name, [5, 5, 250, 250, 5], code)
    out, drawn = tmp_path / "out.jsonl", tmp_path / "drawn"
    assert predicted(tiny_bundle_path, tmp_path / name, "--out", out, "--draw", drawn) == 0
    assert [one["label"] for one in lines(out)] == ["dark", "dark", "bright", "bright", "dark"]
    assert [file.name for file in drawn.iterdir()] == ["a.mp4"]
    capture = cv2.VideoCapture(str(drawn / "a.mp4"))
    seen = []
    while (read := capture.read())[0]:
        seen.append(int(read[1][:200].mean()))
    assert len(seen) == 5 and seen[0] < 60 and seen[2] > 200
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_drawn_pictures_are_whole_with_the_decision_below_and_none_takes_anothers_place(
    tiny_bundle_path: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    assert predicted(tiny_bundle_path, folder, folder / "a.jpg", "--draw", drawn) == 0
    assert sorted(file.name for file in drawn.iterdir()) == ["a-2.jpg", "a.jpg", "b.jpg", "c.jpg"]
    given, shown = cv2.imread(str(folder / "b.jpg")), cv2.imread(str(drawn / "b.jpg"))
    times = shown.shape[1] // given.shape[1]
    assert shown.shape[1] == times * given.shape[1] >= 320
    band = shown[times * given.shape[0] :]
    assert band.shape[0] >= 24 and band.max() > 200 and np.median(band) < 60, "light words on a dark band"
    assert predicted(tiny_bundle_path, "go on then", "--draw", drawn) == 2
    assert "no picture" in capsys.readouterr().err


def test_boxes_are_drawn_where_the_things_are(tmp_path: Path) -> None:
    bundle = tiny_detector.write_bundle(tmp_path / "detector")
    cv2.imwrite(str(tmp_path / "street.png"), tiny_detector.picture((tiny_detector.RED, 16, 8)))
    out, drawn = tmp_path / "out.jsonl", tmp_path / "drawn"
    assert predicted(bundle, tmp_path / "street.png", "--out", out, "--draw", drawn) == 0
    (thing,) = lines(out)[0]["detections"]
    assert thing["class"] == "red"
    shown = cv2.imread(str(drawn / "street.jpg")).astype(int)
    left, top, right, bottom = (round(share * side) for share, side in zip(thing["box"], (320, 240) * 2, strict=True))
    assert (left, top, right, bottom) == (80, 40, 160, 120)
    colour = COLOURS[sum(b"red") % len(COLOURS)]
    for x, y in ((left, 80), (right, 80), (120, bottom)):
        assert np.abs(shown[y, x] - colour).max() < 60, "the box's line"
    assert np.abs(shown[80, 120] - tiny_detector.RED).max() < 30, "what is in it can be seen"
