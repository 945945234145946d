"""A picture's file as a camera's message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.admit import Refusal, decode_picture
from edge_runtime.errors import UserError


def read_image(path: Path) -> bytes | NDArray[np.uint8]:
    """A JPEG's bytes, which admission judges, or the picture decoded, where it is something else by its content; the
    bytes again where it is no picture. Raises UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror}); the data folder is incomplete") from None
    image = None if data.startswith(b"\xff\xd8") else decode_picture(data)
    return data if image is None or isinstance(image, Refusal) else image
