"""A folder of pictures: which files count, and what is in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.admit import MAX_JPEG_BYTES, Refusal, decode_picture
from edge_runtime.plain_file import read_plain

MAX_FILE_BYTES = 256 << 20
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder by name, without what other systems leave beside them (`._x.jpg`)."""
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )


def read_picture(file: Path) -> bytes | NDArray[np.uint8] | Refusal:
    """A JPEG's bytes, as far as a camera may send them, else the picture decoded to [height, width, 3] uint8 BGR; what
    it is, its content says and not its name.
    """
    try:
        data = read_plain(file, MAX_FILE_BYTES)
    except OSError as error:
        return Refusal("unreadable", f"{file.name}: {error.strerror}")
    if data[:2] == b"\xff\xd8" and len(data) <= MAX_JPEG_BYTES:
        return data
    image = decode_picture(data)
    return Refusal(image.reason, f"{file.name}: {image.detail}") if isinstance(image, Refusal) else image
