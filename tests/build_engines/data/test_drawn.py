from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from build_engines.data.drawn import LABELS, picture
from calibration.spread import ALONE, WORKERS


def test_as_many_as_asked_by_several_processes_and_the_same_each_time(tmp_path: Path) -> None:
    counts = ["--train", str(ALONE + 30), "--val", "30", "--side", "32"]
    for name, workers in (("one", "1"), ("two", "2")):
        command = [sys.executable, "-m", "build_engines.data.drawn", str(tmp_path / name), *counts]
        subprocess.run(command, check=True, env={"PATH": "", WORKERS: workers, "PYTHONPATH": ":".join(sys.path)})
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.jpg")}
        for name in ("one", "two")
    )
    assert len(one) == ALONE + 60 and one == two
    assert len(set(one.values())) == len(one)


def test_labels_look_different() -> None:
    same = [picture(label, 64, np.random.default_rng(4)) for label in LABELS]
    assert all(np.abs(a.astype(int) - b).max() > 50 for a, b in ((same[0], same[1]), (same[1], same[2])))
    assert cv2.imencode(".jpg", same[0])[0]
