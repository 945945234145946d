"""Inputs that are missing, late or bad, through the device's own code on a bundle whose answers can be worked out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest

from build_engines.evaluation.degrade import Cell, Matrix, degrade, limited
from build_engines.evaluation.evaluate import evaluate
from build_engines.evaluation.lateness import late
from build_engines.evaluation.page import as_markdown
from build_engines.modalities import modality_of
from build_engines.modalities.faults import Fault, changed
from build_engines.modalities.vision.faults import frozen
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.messages import Words
from edge_runtime.pipeline import Pipeline
from tests import tiny

AT_NS = 10_000_000_000
MS = 1_000_000


def faults(name: str, tagged: bool = False) -> dict[str, Fault]:
    spec = tiny.STREAMS[name]
    return modality_of(spec).faults(name, spec, tagged)


def _jpeg(value: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(value, 3, (tiny.HEIGHT, tiny.WIDTH, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def _moment(index: int) -> LabelledSet:
    """Bright, dark, stop and high in turn: each known from one stream alone."""
    label = tiny.LABELS[index % 4]
    messages = (
        RawMessage("camera", AT_NS, _jpeg(240 if label == "bright" else 20, index)),
        RawMessage("sensors", AT_NS, {"a": 9.0 if label == "high" else 1.0, "b": 1.0}),
        RawMessage("text", AT_NS, Words("please stop now" if label == "stop" else "go on then")),
    )
    return LabelledSet(f"m{index}", f"m{index}", AT_NS, label, messages)


def _read() -> Iterator[LabelledSet]:
    return (_moment(index) for index in range(24))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    path = tiny.write_bundle(tmp_path_factory.mktemp("tiny") / "t")
    pipeline = Pipeline(open_bundle(path, allow_unsigned=True))
    try:
        return degrade(pipeline, _read)
    finally:
        pipeline.close()


def _cell(matrix: Matrix, name: str) -> Cell:
    return next(one for one in matrix.cells if one.name == name)


def test_every_subset_step_and_fault_has_a_cell(matrix: Matrix) -> None:
    kinds = [one.kind for one in matrix.cells]
    assert kinds.count("present") == 7
    assert kinds.count("late") == 4 * 3
    assert kinds.count("fault") == 4 + 2 + 1
    assert _cell(matrix, "camera + text + sensors").figure == 1.0


def test_without_the_required_camera_the_model_is_asked_but_the_decision_is_safe(matrix: Matrix) -> None:
    gone = _cell(matrix, "text + sensors")
    assert gone.safe == 1.0 and gone.wrong == 0.0
    assert 0.3 < gone.figure < 1.0
    assert gone.decisions_accuracy == 0.25  # `stop` is safe, and a quarter of the truth


def test_up_to_its_maximum_age_a_stream_counts_and_beyond_it_is_absent(matrix: Matrix) -> None:
    for step in ("0.5x", "1x"):
        assert _cell(matrix, f"text {step}").figure == 1.0
    assert _cell(matrix, "text 2x").figure == _cell(matrix, "camera + sensors").figure
    stale = _cell(matrix, "everything 2x")
    assert (stale.safe, stale.wrong_confident) == (1.0, 0.0)


def test_where_a_late_stream_is_absent_the_truth_is_what_is_right_without_it(tiny_bundle: Bundle) -> None:
    moments = [replace(_moment(index), label_without={"text": "bright"}) for index in range(4)]
    old = list(late(moments, {"text": 10**12}, tiny.STREAMS))
    pipeline = Pipeline(tiny_bundle)

    def truths(sets: list[LabelledSet], unknown: tuple[str, ...]) -> list[str]:
        return [one.truth for one in evaluate(pipeline, sets, unknown=unknown).predictions]

    try:
        assert truths(old, ("text",)) == ["bright"] * 4
        assert truths(old, ()) == truths(moments, ("text",)) == list(tiny.LABELS[:4])
    finally:
        pipeline.close()


def test_readings_that_are_no_numbers_are_as_good_as_absent(matrix: Matrix) -> None:
    broken, absent = _cell(matrix, "sensors not a number"), _cell(matrix, "camera + text")
    assert (broken.figure, broken.wrong) == (absent.figure, absent.wrong)


def test_a_frozen_camera_shows_another_label_s_picture(matrix: Matrix) -> None:
    assert _cell(matrix, "camera frozen").figure < 1.0
    shown = list(frozen(_read(), "camera"))
    assert shown[1].messages[0].content == _moment(0).messages[0].content


def test_moments_without_a_picture_stay_as_they_are_and_are_never_shown() -> None:
    moments = [
        LabelledSet(str(at), str(at), 10**9, label, tuple(RawMessage("camera", 10**9, one) for one in pictures))
        for at, (label, pictures) in enumerate([("a", [b"1"]), ("b", []), ("c", [b"3"]), ("b", [b"4"])])
    ]
    shown = [[raw.content for raw in moment.messages] for moment in frozen(moments, "camera")]
    assert shown == [[b"1"], [], [b"1"], [b"3"]]


def test_the_report_says_where_a_frozen_camera_cannot_be_seen(matrix: Matrix) -> None:
    words = "counts repeats and cannot see that"
    assert matrix.alone and words in " ".join(matrix.section().text)
    recorded = msgspec.structs.replace(matrix, alone=False)
    assert words not in " ".join(recorded.section().text)


def test_the_checks_are_said_in_words_and_in_pictures(matrix: Matrix) -> None:
    assert matrix.passed, matrix.verdicts
    assert matrix.majority_accuracy == 0.25
    assert matrix.picture()[:4] == b"\x89PNG"
    assert "| present: camera + text + sensors | 1.000 | 1.000 |" in as_markdown("t", (), [matrix.section()])


def test_in_a_recording_late_messages_are_older_ones_with_their_own_stamps() -> None:
    group = [
        LabelledSet(
            f"{i}", "episode", AT_NS + 100 * i * MS, "a",
            (
                RawMessage("camera", AT_NS + 100 * i * MS, bytes([i])),
                RawMessage("text", AT_NS + 100 * i * MS, Words(str(i))),
            ),
        )
        for i in range(5)
    ]  # fmt: skip
    found = list(late(group, {"text": 200 * MS}, tiny.STREAMS))
    assert [[raw.content.text for raw in one.messages if raw.stream == "text"] for one in found] == [
        [],
        [],
        ["0"],
        ["1"],
        ["2"],
    ]
    assert found[2].messages[0].captured_ns == AT_NS
    # The recording has a picture every 100 ms; the device has one of exactly 150 ms ago.
    old = [one.messages for one in late(group, {"camera": 150 * MS}, tiny.STREAMS)]
    pictures = [next((raw for raw in messages if raw.stream == "camera"), None) for messages in old]
    assert [raw and raw.content for raw in pictures] == [None, None, b"\0", b"\1", b"\2"]
    assert pictures[3] is not None and pictures[3].captured_ns == group[3].reference_ns - 150 * MS


def test_word_errors_are_seeded_never_empty_and_about_as_many_as_asked() -> None:
    fault = faults("text")["15% of words wrong"]
    sentence = " ".join(f"w{i}" for i in range(200))
    moments = [replace(_moment(0), messages=(RawMessage("text", AT_NS, Words(sentence)),))]
    once, again = (next(fault(moments)).messages[0].content.text for _ in range(2))
    assert once == again and once is not None
    lost = len(set(sentence.split()) - set(once.split()))
    assert 0.04 < lost / 200 < 0.2
    tagged = next(faults("text", tagged=True)["15% of words wrong"](moments)).messages[0].content.text
    assert tagged is not None and len(tagged.split()) == 200
    short = (
        next(fault([replace(_moment(0), messages=(RawMessage("text", AT_NS, Words("停车")),))]))
        .messages[0]
        .content.text
    )
    assert short and " " not in short


@pytest.mark.parametrize("what", ["blurred", "dark", "noisy"])
def test_pictures_are_changed_and_still_pictures(what: str) -> None:
    before = _moment(0)
    after = next(faults("camera")[what]([before]))
    images = [cv2.imdecode(np.frombuffer(one.messages[0].content, np.uint8), 1) for one in (before, after)]
    assert images[0].shape == images[1].shape and not np.array_equal(*images)
    assert after.messages[1:] == before.messages[1:]
    if what == "dark":
        assert images[1].mean() == pytest.approx(images[0].mean() / 4, rel=0.1)


def test_other_streams_are_left_alone_and_limits_keep_whole_groups() -> None:
    assert list(changed(_read(), "none", lambda raw, rng: raw)) == list(_read())
    some = list(limited(_read, 6)())
    assert len(some) == 6 and list(limited(_read, 6)()) == some
