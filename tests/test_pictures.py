from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from edge_runtime import pictures
from edge_runtime.pictures import PictureError, decode, read_header
from tests.conftest import noise

SMOOTH = cv2.GaussianBlur(noise(128, 3, (120, 160)), (0, 0), 2)


def written(mode: str = "RGB", kind: str = "JPEG", **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(out, kind, **how)
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


WHOLE = {
    "jpeg": written(),
    "grey jpeg": written("L"),
    "cmyk jpeg": written("CMYK"),
    "progressive jpeg": written(progressive=True),
    "jpeg with restart marks": cv2.imencode(".jpg", SMOOTH, [cv2.IMWRITE_JPEG_RST_INTERVAL, 3])[1].tobytes(),
    "turned jpeg": written(exif=turned()),
    "jpeg of rgb": written(keep_rgb=True),
    "jpeg with a large profile": written(icc_profile=b"\xff\xd9" * 70_000),
    "png": written(kind="PNG"),
    "interlaced png": b"",
    "palette png": written("P", "PNG"),
    "png with alpha": written("RGBA", "PNG"),
    "png of one bit": written("1", "PNG"),
    "png of 16 bits": cv2.imencode(".png", SMOOTH.astype(np.uint16) * 257)[1].tobytes(),
    "png with a bad profile": written(kind="PNG", icc_profile=b"junk"),
    "bmp": written(kind="BMP"),
    "palette bmp": written("P", "BMP"),
    "webp": written(kind="WEBP"),
    "lossless webp": written(kind="WEBP", lossless=True),
    "webp with alpha": written("RGBA", "WEBP", exif=turned()),
}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: bytes, width: int = 160, height: int = 120, kind: bytes = b"\x08\x02\0\0\0") -> bytes:
    head = struct.pack(">II", width, height) + kind
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def interlaced() -> bytes:
    """Adam7, row by row of each pass, as the specification draws it."""
    rows = b""
    for left, top, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                                    (0, 1, 1, 2)):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in SMOOTH[top::down, left::across, ::-1])
    return png(zlib.compress(rows), kind=b"\x08\x02\0\0\1")


WHOLE["interlaced png"] = interlaced()
ROWS = b"".join(b"\0" + row.tobytes() for row in SMOOTH[..., ::-1])


def announcing(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    data = WHOLE["jpeg"]
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def many_scans(times: int, width: int, height: int) -> bytes:
    """A progressive picture whose last scan comes again and again."""
    data = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


def refused(data: bytes) -> str:
    try:
        decode(data)
    except PictureError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("name", WHOLE)
def test_whole_pictures_are_what_opencv_makes_of_them(name: str) -> None:
    data = WHOLE[name]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    found = decode(memoryview(data))
    assert found.flags.c_contiguous and found.dtype == np.uint8
    assert_array_equal(found, expected)
    header = read_header(data)
    assert sorted((header.height, header.width)) == sorted(found.shape[:2])


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_that_was_cut_short_or_lost_a_piece_is_corrupt(name: str) -> None:
    data = WHOLE[name]
    for cut in (1, 2, 7, len(data) // 10, len(data) // 2, len(data) - 12):
        assert refused(data[:-cut]) == "corrupt", f"{cut} bytes missing at the end"
    for begin, end in ((0.5, 0.55), (0.4, 0.9), (0.3, 0.5)):
        holed = data[: int(begin * len(data))] + data[int(end * len(data)) :]
        assert refused(holed) == "corrupt", f"{begin:.0%} to {end:.0%} missing"


def test_bytes_behind_a_picture_are_no_matter() -> None:
    assert_array_equal(decode(WHOLE["jpeg"] + bytes(99)), decode(WHOLE["jpeg"]))
    assert_array_equal(decode(WHOLE["png"] + b"x"), decode(WHOLE["png"]))
    padded = WHOLE["jpeg"][:-2] + b"\x01\x02" + WHOLE["jpeg"][-2:]  # what some webcams leave before the end mark
    assert_array_equal(decode(padded), decode(WHOLE["jpeg"]))


ENORMOUS = {
    "jpeg": announcing(65_000, 65_000),
    "jpeg, just too large": announcing(7681, 4320),
    "png": png(zlib.compress(bytes(1000)), 100_000, 100_000),
    "bmp": WHOLE["bmp"][:18] + struct.pack("<ii", 60_000, -60_000) + WHOLE["bmp"][26:],
    "webp": WHOLE["lossless webp"][:21] + b"\xff\xff\xff\x0f" + WHOLE["lossless webp"][25:],
    "webp canvas": WHOLE["webp with alpha"][:24] + b"\xff" * 6 + WHOLE["webp with alpha"][30:],
    "no height": announcing(64, 0),
    "scans": many_scans(120, 1920, 1080),
}


@pytest.mark.parametrize("what", ENORMOUS)
def test_what_announces_too_much_work_is_refused_by_its_header(what: str) -> None:
    with pytest.raises(PictureError) as error:
        read_header(ENORMOUS[what])
    assert error.value.reason == "bad_size"


WRONG = {
    "nothing": (b"", "not_picture"),
    "a GIF": (b"GIF89a" + bytes(100), "not_picture"),
    "a wave file": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "not_picture"),
    "only marks": (b"\xff\xd8\xff\xd9", "corrupt"),
    "no segment": (b"\xff\xd8" + b"junk" * 20, "corrupt"),
    "endless segments": (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000, "corrupt"),
    "segment of length 0": (b"\xff\xd8\xff\xe0\x00\x00" * 9, "corrupt"),
    "12 bits": (WHOLE["jpeg"].replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), "unsupported"),
    "lossless": (WHOLE["jpeg"].replace(b"\xff\xc0", b"\xff\xc3"), "unsupported"),
    "rows of another size": (png(zlib.compress(ROWS[:-10])), "corrupt"),
    "more rows than it says": (png(zlib.compress(ROWS * 50)), "corrupt"),
    "a filter that is none": (png(zlib.compress(b"\x07" + ROWS[1:])), "corrupt"),
    "packed rows with a hole": (png(zlib.compress(ROWS)[:900] + zlib.compress(ROWS)[1900:]), "corrupt"),
    "colour type 5": (png(zlib.compress(ROWS), kind=b"\x08\x05\0\0\0"), "unsupported"),
    "no palette": (png(zlib.compress(bytes(161 * 120)), kind=b"\x08\x03\0\0\0"), "corrupt"),
    "a checksum that is wrong": (WHOLE["png"][:60] + b"\x01" + WHOLE["png"][61:], "corrupt"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_whole_picture_is_named(what: str) -> None:
    data, reason = WRONG[what]
    assert refused(data) == reason


def test_as_many_scans_as_are_allowed_are_still_read() -> None:
    times = pictures.MAX_PASSES_PIXELS // (1280 * 720) - 10
    data = many_scans(times, 1280, 720)
    assert read_header(data).passes == times + 9
    assert refused(data) in ("", "corrupt")


def test_a_jpeg_of_segments_without_number_is_refused_after_some() -> None:
    data = WHOLE["jpeg"]
    full = data[:2] + b"\xff\xe7\x00\x02" * (pictures.MAX_SEGMENTS - 20) + data[2:]
    assert_array_equal(decode(full), decode(data))
    assert refused(data[:2] + b"\xff\xe7\x00\x02" * pictures.MAX_SEGMENTS + data[2:]) == "corrupt"


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_marks_are_found_whatever_the_pieces_that_are_searched(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    jpegs = [name for name in WHOLE if "jpeg" in name]
    expected = [read_header(WHOLE[name]) for name in jpegs]
    monkeypatch.setattr(pictures, "MARKS_BYTES", piece)
    assert [read_header(WHOLE[name]) for name in jpegs] == expected
    for name in jpegs:
        assert refused(WHOLE[name][:-2]) == "corrupt"


def test_a_scan_of_nothing_but_marks_takes_little_memory() -> None:
    data = b"\xff\xd8" + WHOLE["jpeg"][2 : WHOLE["jpeg"].index(b"\xff\xda")] + b"\xff\xda\x00\x02" + b"\xff" * (8 << 20)
    tracemalloc.start()
    assert refused(data) == "corrupt"
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"x" * 100, WHOLE["png"]])
def test_what_shows_no_frame_is_taken_for_much_work(data: bytes) -> None:
    assert pictures.work_ns(data) >= pictures.MAX_PIXELS


def test_work_grows_with_bytes_pixels_and_passes() -> None:
    assert pictures.work_ns(WHOLE["jpeg"]) == 10 * len(WHOLE["jpeg"]) + 160 * 120
    assert pictures.work_ns(WHOLE["jpeg"] + bytes(1000)) == pictures.work_ns(WHOLE["jpeg"]) + 10_000
    assert pictures.work_ns(announcing(640, 480)) == 10 * len(WHOLE["jpeg"]) + 640 * 480
    progressive = WHOLE["progressive jpeg"]
    assert pictures.work_ns(progressive) == 10 * len(progressive) + 160 * 120 * pictures.PROGRESSIVE_PASSES
    assert pictures.work_ns(announcing(65_000, 65_000)) < 2 * pictures.MAX_PIXELS
    hidden = WHOLE["jpeg"][:2] + b"\xff\xe7\x00\x02" * pictures.LOOK_SEGMENTS + WHOLE["jpeg"][2:]
    assert pictures.work_ns(hidden) >= pictures.MAX_PIXELS


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_no_bytes_break_the_header_or_the_decoder(name: str, changes: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(WHOLE[name])
    for place, value in changes:
        # Most of the changes fall into the header, where they matter.
        data[int(place**4 * len(data))] = value
    data = data[: int(max(keep, 0.02) * len(data))] if keep < 0.5 else data
    try:
        header = read_header(bytes(data))
    except PictureError as error:
        assert error.reason in ("not_picture", "corrupt", "unsupported", "bad_size")
        return
    assert header.width * header.height <= pictures.MAX_PIXELS
    refused(bytes(data))


def test_decoders_write_nothing_of_their_own() -> None:
    pieces = [
        data for name in WHOLE for data in (WHOLE[name], WHOLE[name][:-20], WHOLE[name][:300] + WHOLE[name][500:])
    ]
    program = (
        "import sys, struct\nfrom edge_runtime.pictures import PictureError, decode\nraw = sys.stdin.buffer\n"
        "while head := raw.read(4):\n    data = raw.read(struct.unpack('>I', head)[0])\n"
        "    try:\n        decode(data)\n    except PictureError:\n        pass\n"
    )
    sent = b"".join(struct.pack(">I", len(data)) + data for data in (*pieces, *(data for data, _ in WRONG.values())))
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == (b"", b"")
