"""Cameras that this process reads itself: a device or URL, a video file, a folder of pictures."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime import config
from edge_runtime.capture.admit import Refusal, decode_jpeg
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError

log = logging.getLogger("edge_runtime.capture")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def open_capture(settings: config.CameraSource) -> cv2.VideoCapture:
    """Open the device; `isOpened()` tells whether that worked."""
    device: int | str = settings.device
    if isinstance(device, str) and device.isdigit():
        device = int(device)
    if settings.gstreamer:
        capture = cv2.VideoCapture(device, cv2.CAP_GSTREAMER)
    elif isinstance(device, str) and "://" in device:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2000]
        capture = cv2.VideoCapture(device, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(device)
    # The driver's own queue would hand out frames that are already old.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    wanted = (
        (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
        (cv2.CAP_PROP_FPS, settings.fps),
    )
    for key, value in wanted:
        if value is not None:
            capture.set(key, value)
    return capture


class CameraSource(Source):
    """A live camera. When it goes away it is opened again and again, with growing, jittered pauses."""

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, settings: config.CameraSource) -> None:
        super().__init__(f"camera {settings.device}", intake)
        self._settings = settings
        self._pause_s = FIRST_PAUSE_S

    def _run(self) -> None:
        while not self.stopping.is_set():
            capture = open_capture(self._settings)
            try:
                if capture.isOpened():
                    self._read(capture)
                elif self._pause_s == FIRST_PAUSE_S:
                    log.warning("%s: cannot be opened; trying again until it can", self.name)
            finally:
                capture.release()
            # Jitter keeps several cameras on one bus from coming back in lockstep.
            self.stopping.wait(self._pause_s * random.uniform(0.5, 1.0))
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _read(self, capture: cv2.VideoCapture) -> None:
        log.info("%s: open", self.name)
        while not self.stopping.is_set():
            if not capture.grab():
                log.warning("%s: no more frames; opening it again", self.name)
                return
            captured_ns = self._intake.clock.now_ns()
            good, image = capture.retrieve()
            if not good:
                self._intake.refuse(self._settings.stream, Refusal("decode"))
                continue
            self._pause_s = FIRST_PAUSE_S
            self._intake.frame(self._settings.stream, np.asarray(image, np.uint8), captured_ns)


class VideoSource(Source):
    """A video file, played at its own rate times `speed`."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.VideoSource) -> None:
        super().__init__(f"video {settings.path}", intake)
        self._settings = settings
        if not Path(settings.path).is_file():
            raise ConfigError(f"source video: no such file {settings.path}; check `path`")
        self._capture = cv2.VideoCapture(settings.path)
        self._fps = self._capture.get(cv2.CAP_PROP_FPS)
        if not self._capture.isOpened() or self._fps <= 0:
            self._capture.release()
            raise ConfigError(f"source video: {settings.path} is no video that OpenCV can read; convert it to MP4")

    def _run(self) -> None:
        period_ns = int(1e9 / (self._fps * self._settings.speed))
        due_ns = self._intake.clock.now_ns()
        while not self.stopping.is_set():
            good, image = self._capture.read()
            if not good:
                if not self._settings.loop:
                    return
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                continue
            if wait_until(self, due_ns):
                self._intake.frame(self._settings.stream, np.asarray(image, np.uint8))
            due_ns += period_ns

    def _close(self) -> None:
        self._capture.release()


class ImagesSource(Source):
    """A folder of pictures in name order, at a fixed rate; a picture's file name is its `id`."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.ImagesSource) -> None:
        super().__init__(f"images {settings.path}", intake)
        self._settings = settings
        folder = Path(settings.path)
        if not folder.is_dir():
            raise ConfigError(f"source images: no such folder {folder}; check `path`")
        self._files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
        if not self._files:
            raise ConfigError(f"source images: {folder} holds no {', '.join(PICTURES)} files")

    def _run(self) -> None:
        period_ns = int(1e9 / self._settings.rate_hz)
        due_ns = self._intake.clock.now_ns()
        for file in self._order():
            image = read_picture(file)
            if not wait_until(self, due_ns):
                return
            if isinstance(image, Refusal):
                self._intake.refuse(self._settings.stream, image)
            else:
                self._intake.frame(self._settings.stream, image, id=file.name)
            due_ns += period_ns

    def _order(self) -> Iterator[Path]:
        yield from self._files
        while self._settings.loop:
            yield from self._files


def read_picture(file: Path) -> NDArray[np.uint8] | Refusal:
    """Decode a picture file to [height, width, 3] uint8 BGR."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return Refusal("unreadable", f"{file.name}: {error.strerror}")
    if file.suffix.lower() in (".jpg", ".jpeg"):
        return decode_jpeg(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    return Refusal("decode", file.name) if image is None else image  # type: ignore[return-value]  # uint8


def wait_until(source: Source, due_ns: int) -> bool:
    """Sleep until `due_ns` of the monotonic clock; False if the source was stopped meanwhile."""
    left_s = (due_ns - time.monotonic_ns()) / 1e9
    return not (source.stopping.wait(left_s) if left_s > 0 else source.stopping.is_set())
