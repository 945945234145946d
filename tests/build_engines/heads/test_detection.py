"""Average precision as pycocotools computes it, on cases worked out by hand, and what the gate makes of it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.heads import build_of
from build_engines.heads.average_precision import AveragePrecision
from build_engines.heads.detection import DetectionBuild, DetectionPairs
from build_engines.recipe import GateRecipe
from calibration.moments import TrueObject
from calibration.samples import CalibrationSample, Shown
from edge_runtime.errors import UserError
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.messages import Detection
from edge_runtime.specs import CameraStream

LABELS = ("cat", "dog", "bird")
Box = tuple[float, float, float, float]
LEFT: Box = (0.0, 0.0, 0.4, 0.4)
RIGHT: Box = (0.5, 0.5, 0.9, 0.9)


def there(label: str, box: Box, crowd: bool = False) -> TrueObject:
    return TrueObject(label, box, crowd)


def drawn(seed: int, pictures: int = 12) -> tuple[list[list[TrueObject]], list[list[Detection]]]:
    """Truths with crowds, and detections of all sorts near them and elsewhere."""
    rng = np.random.default_rng(seed)
    truth: list[list[TrueObject]] = []
    found: list[list[Detection]] = []
    for _ in range(pictures):
        things, seen = [], []
        for _ in range(int(rng.integers(0, 5))):
            low, side = rng.random(2) * 0.6, 0.1 + rng.random(2) * 0.3
            label = str(rng.choice(LABELS[:2]))
            things.append(there(label, (*low, *(low + side)), bool(rng.random() < 0.15)))  # type: ignore[arg-type]
            for _ in range(int(rng.integers(0, 3))):
                shift = rng.normal(0, 0.03, 4)
                box = (low[0] + shift[0], low[1] + shift[1], low[0] + side[0] + shift[2], low[1] + side[1] + shift[3])
                wrong = rng.random() < 0.2
                name = str(rng.choice(LABELS)) if wrong else label
                seen.append(Detection(name, float(rng.integers(1, 20)) / 20, tuple(map(float, box))))  # type: ignore[arg-type]
        truth.append(things)
        found.append(seen)
    return truth, found


def by_files(
    folder: Path, truth: list[list[TrueObject]], found: list[list[Detection]]
) -> dict[str, tuple[float, float]]:
    """Each class's AP50-95 and AP50, by pycocotools as its users call it: from files, in pixels of a picture."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def row(index: int, thing: Any) -> dict[str, Any]:
        left, top, right, bottom = (side * 1000 for side in thing.box)
        box = [left, top, right - left, bottom - top]
        return {
            "image_id": index + 1,
            "category_id": LABELS.index(thing.label) + 1,
            "bbox": box,
            "area": box[2] * box[3],
        }

    annotations = [
        row(index, thing) | {"iscrowd": int(thing.crowd)} for index, things in enumerate(truth) for thing in things
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    document = {
        "images": [{"id": index + 1, "width": 1000, "height": 1000} for index in range(len(truth))],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(LABELS)],
        "annotations": annotations,
    }
    results = [row(index, thing) | {"score": thing.score} for index, things in enumerate(found) for thing in things]
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]
    values = {}
    for number, name in enumerate(LABELS):
        curve = precision[:, :, number, 0, 2]  # all sizes, at most 100
        if (curve > -1).any():
            values[name] = (float(curve[curve > -1].mean()), float(curve[0][curve[0] > -1].mean()))
    return values


@pytest.mark.parametrize("seed", range(4))
def test_it_is_pycocotools_own(tmp_path: Path, seed: int) -> None:
    truth, found = drawn(seed)
    ours = {name: (one.ap, one.ap50) for name, one in AveragePrecision(truth, found, LABELS).of().items()}
    theirs = by_files(tmp_path, truth, found)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, abs=1e-9), name


def test_a_resample_is_what_its_pictures_are_by_themselves() -> None:
    truth, found = drawn(7)
    draw = np.random.default_rng(0).integers(len(truth), size=len(truth))
    resampled = AveragePrecision(truth, found, LABELS).of(draw)
    again = AveragePrecision([truth[i] for i in draw], [found[i] for i in draw], LABELS).of()
    assert resampled == again
    whole = AveragePrecision(truth, found, LABELS)
    whole.of(draw)
    assert whole.of() == AveragePrecision(truth, found, LABELS).of(), "what was drawn before leaves no trace"


def test_cases_by_hand() -> None:
    truth = [[there("cat", LEFT), there("cat", RIGHT)]]
    perfect = [Detection("cat", 0.9, LEFT), Detection("cat", 0.8, RIGHT)]
    one = AveragePrecision(truth, [perfect[:1]], LABELS).of()["cat"]
    assert one.ap50 == pytest.approx(51 / 101), "recall up to a half, at 51 of COCO's 101 recalls"
    assert AveragePrecision(truth, [perfect], LABELS).of()["cat"].ap == pytest.approx(1.0)
    # Half as wide: an overlap of 0.5, which counts at 0.5 alone of the ten.
    half = [Detection("cat", 0.9, (0.0, 0.0, 0.2, 0.4))]
    near = AveragePrecision([[there("cat", LEFT)]], [half], LABELS).of()["cat"]
    assert (near.ap50, near.ap) == (pytest.approx(1.0), pytest.approx(0.1))
    assert AveragePrecision([[]], [half], LABELS).of() == {}, "where nothing is to be found there is no such figure"


def pairs(
    truth: list[list[TrueObject]], said: list[list[Detection]], found: list[list[Detection]] | None = None
) -> DetectionPairs:
    groups = [str(number) for number in range(len(truth))]
    return DetectionPairs(truth, said if found is None else found, said, LABELS, groups)


def test_what_was_said_is_counted_once() -> None:
    truth = [[there("cat", LEFT), there("dog", RIGHT)], [there("cat", LEFT)], [], [there("dog", RIGHT, crowd=True)]]
    said = [
        [Detection("cat", 0.9, LEFT), Detection("dog", 0.8, RIGHT)],
        [Detection("cat", 0.9, LEFT), Detection("cat", 0.7, (0.02, 0.0, 0.4, 0.4))],  # the same twice
        [],
        [Detection("dog", 0.9, (0.6, 0.6, 0.7, 0.7))],  # in the crowd: neither right nor wrong
    ]
    judged = pairs(truth, said)
    assert judged.right().tolist() == [True, False, True, True]
    scores = judged.scores
    assert scores.accuracy == 0.75 and scores.support == {"cat": 2, "dog": 1}
    assert scores.classes["cat"].precision == pytest.approx(2 / 3) and scores.classes["cat"].recall == 1.0
    assert (scores.classes["dog"].precision, scores.classes["dog"].recall) == (1.0, 1.0)
    assert set(scores.parts) == {"cat", "dog"} and scores.figure == scores.ap


def test_intervals_are_over_the_classes_that_occur() -> None:
    truth, found = drawn(3)
    judged = pairs(truth, found)
    draws = [np.arange(len(truth)), np.zeros(len(truth), np.int64), np.array([i for i, t in enumerate(truth) if not t])]
    figures = judged.bootstrap(draws)
    assert figures[0] == pytest.approx(judged.scores.figure)
    parts = judged.part_bootstrap(draws)
    assert {name: values[0] for name, values in parts.items()} == pytest.approx(judged.scores.parts)
    assert figures[2] == 0.0, "of pictures with nothing in them"


def test_the_gate_sees_what_is_lost() -> None:
    truth = [[there("cat", LEFT), there("dog", RIGHT)] for _ in range(10)]
    right = [[Detection("cat", 0.9, LEFT), Detection("dog", 0.8, RIGHT)] for _ in range(10)]
    before = pairs(truth, right).scores
    assert before.lost(before, GateRecipe()) == [] and before.below(GateRecipe(ap=0.99)) is None
    # Boxes that are a tenth off: AP50 is all there, AP50-95 is not.
    shaken = [[Detection("cat", 0.9, (0.04, 0.0, 0.44, 0.4)), thing] for _, thing in right]
    after = pairs(truth, shaken).scores
    lost = before.lost(after, GateRecipe())
    assert any(line.startswith("AP50-95 1.0000 -> 0.") for line in lost)
    assert any(line.startswith("cat: AP50-95") for line in lost) and not any("AP50 " in line for line in lost)
    none = pairs(truth, [[thing] for _, thing in right]).scores
    assert any(line.startswith("cat: AP50 1.0000 -> 0.0000") for line in before.lost(none, GateRecipe()))
    assert before.below(GateRecipe(ap=1.0)) is None
    assert "AP50-95 0.5000 (at least 0.9)" in str(none.below(GateRecipe(ap=0.9)))


def test_what_finds_nothing_is_no_reference() -> None:
    truth = [[there("cat", LEFT)]]
    assert "finds nothing that is there" in str(pairs(truth, [[Detection("cat", 0.9, RIGHT)]]).poor())
    assert "has nothing to find" in str(pairs([[]], [[]]).poor())
    assert pairs(truth, [[Detection("cat", 0.9, LEFT)]]).poor() is None
    with pytest.raises(UserError, match="the data names the class 'fox', which is no label"):
        pairs([[there("fox", LEFT)]], [[]])


def test_raw_outputs_are_judged_in_the_cameras_picture_and_little_of_them_is_kept() -> None:
    head = DetectionHead(LABELS, "stage:a:b", "camera.front")
    build = build_of(head)
    assert isinstance(build, DetectionBuild)
    spec = CameraStream(64, 64, 30, 100, fit="letterbox")
    raw = np.zeros((1, 500, 7), np.float32)
    raw[0, :, :4] = (0.1, 0.1, 0.2, 0.2)
    raw[0, 7] = (0.0, 0.25, 0.5, 0.5, 0.9, 0.0, 0.0)  # of a picture twice as wide as high: its upper left quarter
    raw[0, 8] = (0.5, 0.5, 1.0, 0.75, 0.0, 0.2, 0.0)
    quarter: Box = (0.0, 0.0, 0.5, 0.5)
    sample = CalibrationSample(
        "a", "a", "cat", "", ("camera.front",), {}, objects=(there("cat", quarter), there("dog", (0.5, 0.5, 1.0, 1.0))),
        shown={"camera.front": Shown(spec, (128, 64))},
    )  # fmt: skip
    kept = build.kept(head, raw)
    assert kept.shape == (1, 2, 7)
    for output in (raw, kept):
        judged, matrix = build.output_pairs(head, DecisionPolicy("none"), "", [sample], [output])
        assert judged.scores.ap == pytest.approx(1.0), "the dog below the threshold counts for the average precision"
        assert judged.scores.accuracy == 0.0, "and not among what is said"
        assert matrix.tolist() == raw[0, 7:9, 4:].max(axis=0)[None].tolist()
    assert build.kept(head, raw * 0).shape == (1, 1, 7)
