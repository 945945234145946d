"""USB cameras, on a double of the device: OpenCV's own reader of Video4Linux, and what it is given to read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edge_runtime.pictures import decode
from edge_runtime.pixels import pixels
from tests import tiny
from tests.conftest import WAIT_S, jpeg, noise

SOURCE = Path(__file__).with_name("video_device.c")
# Ends as the command does: a disk that is slow may hold the recorder's thread for longer than it is waited for.
PROGRAM = """
import hashlib, json, os, sys, time
import numpy as np
from pathlib import Path
from edge_runtime import config
from edge_runtime.recording.recorder import Recorder
from edge_runtime.wire import BundleId
from tests import tiny
from tests.capture.test_sources import Inbox
settings = json.loads(sys.argv[1])
recording, wanted = Path(sys.argv[2]), int(sys.argv[3])
inbox = Inbox()
source = inbox.open(config.CameraSource("camera", **settings))
source.start()
until = time.monotonic() + float(sys.argv[4])
while inbox.captured("camera") < wanted and time.monotonic() < until:
    time.sleep(0.01)
source.stop(10)
recorder = Recorder(recording, inbox.intake.clock)
recorder.session(config.Config("x", "b", ()), BundleId("tiny", "1.0.0", "0" * 64), tiny.STREAMS)
frames = inbox.take("camera")
for frame in frames:
    recorder.message(frame)
recorder.close()
def told(frame):
    return {"jpeg": None if frame.encoded is None else hashlib.sha256(frame.encoded).hexdigest(),
            "shape": list(frame.image.shape), "pixels": hashlib.sha256(frame.pixels.tobytes()).hexdigest()}
dropped = inbox.boxes["camera"].counts(0).dropped
print(json.dumps({"frames": [told(frame) for frame in frames], "dropped": dropped}), flush=True)
os._exit(0)
"""

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not sys.platform.startswith("linux"), reason="the double needs gcc and Linux"
)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("double") / "video_device.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def seen(
    double: Path, folder: Path, formats: str, frames: Sequence[bytes], wanted: int = 6, **settings: Any
) -> dict[str, Any]:
    """What a camera source made of a device with these formats and frames."""
    (folder / "frames").mkdir()
    for number, data in enumerate(frames):
        (folder / "frames" / str(number)).write_bytes(data)
    environment = os.environ | {
        "LD_PRELOAD": str(double),
        "VIDEO_DEVICE_FORMATS": formats,
        "VIDEO_DEVICE_FRAMES": str(folder / "frames"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings), str(folder / "r.mcap"), str(wanted), str(WAIT_S)],
        env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert len(answer["frames"]) + sum(answer["dropped"].values()) >= wanted
    return answer


def digest(data: Any) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


JPEGS = [jpeg(noise(100, number, (480, 640))) for number in range(6)]


@pytest.mark.parametrize("settings", [{"device": 97}, {"device": "/dev/video97"}, {"device": "97", "mjpeg": True}])
def test_motion_jpeg_comes_as_the_camera_made_it_and_is_recorded_so(
    double: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from edge_runtime.messages import Frame
    from edge_runtime.recording.reader import Recording

    answer = seen(double, tmp_path, "MJPG", JPEGS, **settings)
    whole = [digest(data) for data in JPEGS]
    found = [frame["jpeg"] for frame in answer["frames"]]
    at = whole.index(found[0])
    assert found == [whole[(at + step) % 6] for step in range(len(found))], "every byte, in order"
    made = {digest(data): digest(pixels(tiny.STREAMS["camera"], data).tobytes()) for data in JPEGS}  # type: ignore[arg-type]
    assert all(frame["pixels"] == made[frame["jpeg"]] for frame in answer["frames"])
    recorded = [event for event in Recording(tmp_path / "r.mcap").events() if isinstance(event, Frame)]
    assert [digest(frame.picture) for frame in recorded] == found


def test_a_camera_is_asked_for_motion_jpeg_only_where_the_configuration_says_so(double: Path, tmp_path: Path) -> None:
    for name, formats, mjpeg, expected in (
        ("raw", "YUYVMJPG", False, False),
        ("asked", "YUYVMJPG", True, True),
        ("has none", "YUYV", True, False),
    ):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(1)
        raw = [rng.integers(60, 200, 640 * 480 * 2, dtype=np.uint8).tobytes() for _ in range(4)]
        answer = seen(double, folder, formats, JPEGS if expected else raw, device=97, mjpeg=mjpeg)
        assert [frame["jpeg"] is not None for frame in answer["frames"]] == [expected] * len(answer["frames"]), name
        assert all(frame["shape"] == [480, 640, 3] for frame in answer["frames"])


def test_frames_with_holes_are_refused_and_the_others_taken(double: Path, tmp_path: Path) -> None:
    holed = [one[: len(one) // 3] + one[len(one) // 2 :] if at % 2 else one for at, one in enumerate(JPEGS)]
    answer = seen(double, tmp_path, "MJPG", holed, wanted=12, device=97)
    assert set(answer["dropped"]) == {"corrupt"} and answer["dropped"]["corrupt"] >= 5
    assert {frame["jpeg"] for frame in answer["frames"]} == {digest(data) for data in JPEGS[::2]}


def test_motion_jpeg_without_its_tables_is_decoded_with_the_standard_s() -> None:
    """Many USB cameras leave the Huffman tables out (ITU-T T.81, K.3)."""
    data = JPEGS[0]
    bare, at = data[:2], 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        bare += data[at : at + length] if data[at + 1] != 0xC4 else b""
        at += length
    bare += data[at:]
    assert len(bare) < len(data) - 300
    assert_array_equal(decode(bare), decode(data))
