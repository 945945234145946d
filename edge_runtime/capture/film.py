"""OpenCV's captures of video files and devices: opened, kept from decoding Motion JPEG, and bounded."""

from __future__ import annotations

import os

import cv2

from edge_runtime.errors import ConfigError
from edge_runtime.pictures import MAX_PIXELS

FILMS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
"""Endings of their names."""

_AS_IT_CAME = {"FFMPEG": (cv2.CAP_PROP_FORMAT, -1), "V4L2": (cv2.CAP_PROP_CONVERT_RGB, 0)}
"""Back end to the property, and its value, that keeps it from decoding."""

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg writes to stderr by itself; read at the first capture


def take_jpegs(capture: cv2.VideoCapture) -> None:
    """Have Motion JPEG handed over as it came: OpenCV's decoders take all of it, fill holes and say nothing."""
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False)
    if codec.upper() in (b"MJPG", b"JPEG") and (as_it_came := _AS_IT_CAME.get(capture.getBackendName())):
        capture.set(*as_it_came)


def reopen_film(path: str) -> cv2.VideoCapture:
    """A video file that was opened before: one that has gone gives no frame."""
    capture = cv2.VideoCapture(path)
    take_jpegs(capture)
    return capture


def open_film(path: str, where: str) -> cv2.VideoCapture:
    """A video file. Raises ConfigError, which begins with `where`, if it cannot be read or its frames are too large."""
    capture = reopen_film(path)
    problem = ""
    if not capture.isOpened() or capture.get(cv2.CAP_PROP_FPS) <= 0:
        problem = "is no video that OpenCV can read; convert it to MP4"
    elif large := too_large(capture):
        problem = f"is {large}; scale it down"
    if problem:
        capture.release()
        raise ConfigError(f"{where} {problem}")
    return capture


def too_large(capture: cv2.VideoCapture) -> str | None:
    """Why no frame of `capture` should be decoded, if so."""
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    return f"{width}x{height}, at most {MAX_PIXELS} pixels" if width * height > MAX_PIXELS else None
