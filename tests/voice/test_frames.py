"""What a runtime and the process that listens for it say to each other."""

from __future__ import annotations

import pytest

from edge_runtime.admit import Refusal
from edge_runtime.messages import Speech, Words
from edge_runtime.voice import frames

ANSWERS = (
    frames.Opened(),
    frames.Told(frames.Said(Words("turn left", "en", Speech(500.0, 300.0, 0.1)), 17)),
    frames.Told(frames.Said(Words("左转"), 1 << 62)),
    frames.Told(frames.Said(Refusal("noise", "1.0 dB"), 18)),
    frames.Unfit("PackError", "there is none"),
    frames.Ended(),
)


def incoming() -> frames.Incoming[frames.Answer]:
    return frames.Incoming(frames.Answer)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_is_said_comes_whole_however_it_is_cut(size: int) -> None:
    data = b"".join(map(frames.packed, ANSWERS))
    into = incoming()
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    assert tuple(one for part in parts for one in into.messages(part)) == ANSWERS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff\xff\x7f", "a frame of 2147483647 bytes, at most 2097152"),
        (b"\0\0\0\0", "no message"),
        (b"\x01\0\0\0\xc1", "no message"),
        (frames.packed(frames.Sound(b"\0\0", 1)), "no message"),
        (b"\x02\0\0\0\xa1\xff", "no message"),
        (b"\x00\x10\0\0" + b"\x91" * 4096, "no message"),
    ],
)
def test_what_can_be_no_frame_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(frames.FrameError, match=message):
        list(incoming().messages(data))
