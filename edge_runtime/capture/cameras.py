"""Cameras that this process reads itself: a device or URL, a video file, a folder of pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.film import open_film, reopen_film, take_jpegs, too_large
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.picture_files import PICTURES, picture_files, read_picture
from edge_runtime.capture.playback import log_end, wait_until
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.pauses import Pauses

log = logging.getLogger("edge_runtime.capture")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
REFUSED_NS = 3_000_000_000
"""A camera that gives nothing but refused frames for this long is opened again."""


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
    if settings.mjpeg:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    # The driver's own queue would hand out frames that are already old.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    properties = (
        (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
        (cv2.CAP_PROP_FPS, settings.fps),
    )
    for key, value in properties:
        if value is not None:
            capture.set(key, value)
    return capture


def deliver(intake: Intake, stream: str, image: Any, captured_ns: int | None = None) -> bool:
    """Hand over a frame, decoded or as a row of JPEG bytes; whether it was taken."""
    before = intake.refusals(stream).total()
    if image.ndim == 2 and image.shape[0] == 1:
        intake.jpeg(stream, image.tobytes(), captured_ns)
    else:
        intake.frame(stream, np.asarray(image, np.uint8), captured_ns)
    return intake.refusals(stream).total() == before


class CameraSource(Source):
    """A live camera. When it goes away, or gives only frames that are refused (frozen, black, garbage), it is opened
    again and again, with growing, jittered pauses.
    """

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, settings: config.CameraSource) -> None:
        super().__init__(f"camera {settings.device}", intake)
        self._settings = settings
        self._pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)

    def _run(self) -> None:
        while not self.stopping.is_set():
            capture = open_capture(self._settings)
            try:
                if capture.isOpened() and (large := too_large(capture)):
                    self._intake.refuse(self._settings.stream, Refusal("bad_size", large))
                elif capture.isOpened():
                    take_jpegs(capture)
                    self._read(capture)
                elif self._pauses.untried:
                    log.warning("%s: cannot be opened; trying again until it can", self.name)
            finally:
                capture.release()
            self.stopping.wait(self._pauses.next_s())

    def _read(self, capture: cv2.VideoCapture) -> None:
        log.info("%s: open", self.name)
        good_ns = self._intake.clock.now_ns()
        while not self.stopping.is_set():
            if not capture.grab():
                log.warning("%s: no more frames; opening it again", self.name)
                return
            captured_ns = self._intake.clock.now_ns()
            good, image = capture.retrieve()
            if not good:
                self._intake.refuse(self._settings.stream, Refusal("corrupt", "it cannot be decoded"))
            elif deliver(self._intake, self._settings.stream, image, captured_ns):
                self._pauses.succeeded()
                good_ns = captured_ns
            if captured_ns - good_ns > REFUSED_NS:
                log.warning("%s: only frames that are refused; opening it again", self.name)
                return


class VideoSource(Source):
    """A video file, played at its own time stamps times `speed`. A loop opens it anew, as not every file can be
    rewound.
    """

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.VideoSource) -> None:
        super().__init__(f"video {settings.path}", intake)
        self._settings = settings
        if not Path(settings.path).is_file():
            raise ConfigError(f"source video: no such file {settings.path}; check `path`")
        self._capture = open_film(settings.path, f"source video: {settings.path}")
        self._fps = self._capture.get(cv2.CAP_PROP_FPS)

    def _run(self) -> None:
        stream = self._settings.stream
        begin_ns, read, before = self._intake.clock.now_ns(), 0, self._intake.refusals(stream)
        while (played := self._play(begin_ns)) is not None:
            frames, begin_ns = played
            read += frames
            if not self._settings.loop:
                break
            if not frames:
                log.warning("%s: gives no frame when it is opened again", self.name)
                break
            self._capture.release()
            self._capture = reopen_film(self._settings.path)
        log_end(self, self._intake, stream, before, read, "frames")

    def _play(self, begin_ns: int) -> tuple[int, int] | None:
        """Once through: frames read, and when the next round is due. None if stopped meanwhile."""
        period_ns = 1e9 / self._fps
        frames, first_ns, at_ns, due_ns = 0, 0.0, -period_ns, begin_ns
        while not self.stopping.is_set():
            good, image = self._capture.read()
            if not good:
                return frames, due_ns + int(period_ns / self._settings.speed)
            stamp_ns = self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6
            if not frames:
                first_ns = stamp_ns
            # Some containers have no stamps, or ones that stand still: then the mean rate is the best guess.
            at_ns = stamp_ns - first_ns if stamp_ns - first_ns > at_ns else at_ns + period_ns
            due_ns = begin_ns + int(at_ns / self._settings.speed)
            frames += 1
            if not wait_until(self, due_ns):
                return None
            # The frame's own time, not the moment this thread woke up: the film's spacing is kept.
            deliver(self._intake, self._settings.stream, image, min(due_ns, self._intake.clock.now_ns()))
        return None

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
        self._files = picture_files(folder)
        if not self._files:
            raise ConfigError(f"source images: {folder} holds no {', '.join(PICTURES)} files")

    def _run(self) -> None:
        stream = self._settings.stream
        period_ns = int(1e9 / self._settings.rate_hz)
        due_ns = self._intake.clock.now_ns()
        read, before = 0, self._intake.refusals(stream)
        for file in self._order():
            image = read_picture(file)
            if not wait_until(self, due_ns):
                return
            read += 1
            if isinstance(image, Refusal):
                self._intake.refuse(stream, image)
            else:
                self._intake.put(stream, image, id=file.name)
            due_ns += period_ns
        log_end(self, self._intake, stream, before, read, "pictures")

    def _order(self) -> Iterator[Path]:
        yield from self._files
        while self._settings.loop:
            yield from self._files
