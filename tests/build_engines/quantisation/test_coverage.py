"""The report on the calibration set: counts by label, condition and stream, and a picture of them."""

from __future__ import annotations

import cv2
import numpy as np

from build_engines.quantisation.coverage import Coverage, as_markdown, plot
from calibration.select import Signature

STREAMS = ("camera.front", "text")


def _moment(index: int, label: str, condition: str, *present: str) -> Signature:
    return Signature(index, f"m{index}", "g", label, condition, f"d{index}", present)


COVERED = Coverage(
    everything=[_moment(i, "go" if i % 3 else "stop", "night" if i % 2 else "day", *STREAMS) for i in range(12)],
    distinct=[_moment(i, "go", "day", "camera.front") for i in range(9)],
    chosen=[_moment(0, "stop", "day", *STREAMS), _moment(1, "go", "night", "text"), _moment(2, "go", "day", "text")],
    evaluation=[_moment(9, "wait", "", *STREAMS)],
    shared=2,
    near=1,
    streams=STREAMS,
)


def test_markdown_counts_labels_conditions_and_streams() -> None:
    lines = as_markdown(COVERED).splitlines()
    assert lines[2].startswith("3 moments of 12 (9 without")
    assert "without 2 that are also evaluated" in lines[2] and "1 are nearly like one" in lines[2]
    assert "| stop | 4 | 0 | 1 | 0 |" in lines
    assert "| night | 6 | 0 | 1 | 0 |" in lines
    assert "| (none given) | 0 | 0 | 0 | 1 |" in lines
    assert "| camera.front | 12 / 0 | 9 / 0 | 1 / 2 | 1 / 0 |" in lines
    assert "| go | 0 / 2 | 2 / 0 |" in lines
    assert "| wait | 0 / 0 | 0 / 0 |" in lines


def test_the_picture_is_one() -> None:
    image = cv2.imdecode(np.frombuffer(plot(COVERED), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape[1] > 1000 and image.std() > 10
