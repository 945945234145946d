"""The worst mistakes: which they are, and what is shown of them."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from build_engines.data.datasets import layout_named
from build_engines.evaluation import gallery
from build_engines.evaluation.evaluate import evaluate
from build_engines.evaluation.gallery import Mistake, gather, section, sheet, worst
from build_engines.evaluation.page import as_html
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.bundle import open_bundle
from edge_runtime.messages import Words
from edge_runtime.pipeline import Pipeline
from tests import tiny

AT = 10_000_000_000


def moments() -> list[LabelledSet]:
    """One group: a picture at the beginning, then sentences; all are said to be dark."""
    picture = np.full((40, 60, 3), 240, np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    first = (RawMessage("camera", AT, jpeg), RawMessage("sensors", AT, {"a": 1.5}))
    later = (RawMessage("sensors", AT + 1, {"b": 2.0}), RawMessage("text", AT + 1, Words("please stop now")))
    return [LabelledSet("m0", "g", AT, "bright", first), LabelledSet("m1", "g", AT + 1, "dark", later)]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> list[Mistake]:
    path = tiny.write_bundle(tmp_path_factory.mktemp("tiny") / "t")
    pipeline = Pipeline(open_bundle(path, allow_unsigned=True))
    try:
        found = evaluate(pipeline, moments())
        wrong = worst(found)
        assert [one.id for one in wrong] == ["m1"], "the one that is right is not among them"
        assert worst(found, 0) == []
        return gather(pipeline.streams, moments(), wrong)
    finally:
        pipeline.close()


def test_what_was_known_at_the_moment_is_shown(mistakes: list[Mistake]) -> None:
    """The picture and the reading of the moment before, for they still held."""
    (one,) = mistakes
    (picture,) = one.pictures
    assert picture.shape == (133, 200, 3) and abs(int(picture.mean()) - 240) < 3
    assert one.lines[0] == "right: dark" and one.lines[1].startswith("answered: stop (")
    assert one.lines[2:] == ("said: please stop now", "a 1.5, b 2")


def test_the_page_holds_pictures_and_words_and_nothing_that_runs(mistakes: list[Mistake]) -> None:
    said = Mistake(mistakes[0].prediction, mistakes[0].pictures, "<script>打开灯</script>", "")
    page = as_html("t", [], section([said]), {})
    assert html.escape("<script>打开灯</script>") in page and "<script" not in page
    data = page.split("data:image/jpeg;base64,")[1].split('"')[0]
    assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape == (133, 200, 3)


def test_the_sheet_shows_every_picture(mistakes: list[Mistake]) -> None:
    red = Mistake(mistakes[0].prediction, (np.full((50, 80, 3), (0, 0, 255), np.uint8),) * 2, "", "")
    image = np.asarray(Image.open(io.BytesIO(sheet([red] * 5))).convert("RGB")).astype(int)
    reddish = (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] < 60)
    places = cv2.connectedComponents(reddish.astype(np.uint8))[0] - 1
    assert places == 10


def test_letters_that_no_font_draws_are_named_and_those_that_one_does_are_not(
    mistakes: list[Mistake], monkeypatch: pytest.MonkeyPatch
) -> None:
    chinese = [Mistake(mistakes[0].prediction, (), "打开 light", "")]
    drawn = {"DejaVu Sans": set(map(chr, range(128))), "Some Song": {"打"}}
    monkeypatch.setattr(gallery, "_drawn", lambda family, wanted: wanted & drawn.get(family, set()))
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [type("F", (), {"name": n}) for n in drawn])
    (part,) = section(chinese)
    assert part.text[1] == "No font here draws 开 in mistakes.png; the page shows them."
    drawn["Some Song"] = {"打", "开"}
    assert len(section(chinese)[0].text) == 1


def test_boxes_are_no_letters() -> None:
    """Matplotlib brings a font that draws a box for each."""
    assert gallery.NO_FONT not in gallery._fonts({"开"})


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert section([]) == []


def test_a_report_of_a_data_folder_has_its_worst_mistakes(tmp_path: Path) -> None:
    for label, shade in (("bright", 240), ("dark", 240)):
        folder = tmp_path / "data" / "val" / label
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "a.png"), np.full((40, 60, 3), shade, np.uint8))
    bundle = open_bundle(tiny.write_bundle(tmp_path / "t"), allow_unsigned=True)
    pipeline = Pipeline(bundle)
    layout = layout_named("images")
    found = evaluate(pipeline, layout.read(tmp_path / "data", "val", pipeline.streams), blocking=False)
    gathered = gather(pipeline.streams, layout.read(tmp_path / "data", "val", pipeline.streams), worst(found))
    pipeline.close()
    assert [one.prediction.id for one in gathered] == ["val/dark/a.png"]
    assert len(gathered[0].pictures) == 1
