"""Pictures from anywhere: judged by their header, then decoded whole or refused.

A few hundred bytes can announce a picture that takes gigabytes, or repeat a progressive scan until the decoder takes
minutes; a decoder that meets a hole fills it with grey and says nothing. So kind, size and passes are read from the
file's own structure before a byte is decoded, and what a decoder would have to patch up is refused. Pure; any thread.

JPEG goes through simplejpeg (libjpeg-turbo), which reports what OpenCV's copy of the same library only prints, and
gives the same pixels; the rest through OpenCV, and PNG's rows are unpacked once before: libpng prints, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

MAX_PIXELS = 7680 * 4320
"""Larger pictures are refused by their header: 8K is 100 MB when decoded."""
MAX_PASSES_PIXELS = 256_000_000
"""Pixels times passes over them: a progressive picture of 24 megapixels has ten."""
MAX_SEGMENTS = 1000
"""Of a JPEG: real ones have some dozens, or some hundreds with a large profile, maps and thumbnails."""
MAX_CHUNKS = 20_000
"""Of a PNG: some thousands where it comes in 8 KiB each."""

_WHOLE_PICTURE = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_NO_MARKER = np.zeros(256, bool)
_NO_MARKER[[0x00, 0xFF, *range(0xD0, 0xD8)]] = True
"""What may follow 0xFF inside a scan: a stuffed zero, fill bytes, restart marks (ITU-T T.81, B.1.1)."""
PIECE_BYTES = 1 << 20
MARKS_BYTES = 128 << 10
"""So much of a JPEG is searched for marks at a time: the search takes eight times as much memory."""
NS_PER_BYTE, NS_PER_PIXEL = 10, 1
"""What decoding takes on a desktop's core, roughly: both are added, pixels for each pass."""
LOOK_SEGMENTS = 32
"""A picture's frame is looked for in so many segments before its work is estimated; cameras write some ten."""
PROGRESSIVE_PASSES = 10
REDUCTIONS = (8, 4, 2)
"""A JPEG's blocks of 8 x 8 can be decoded to fewer pixels, for less work: by powers of two everywhere."""
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type to the sample depths that are allowed with it."""
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, across and down of the seven passes of an interlaced picture."""
_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf")

Fewest = Callable[[int, int], tuple[int, int]]
"""A picture's width and height to how many pixels of each are needed at least."""

# What is wrong with a picture is counted and logged here, once per change. OpenCV 4 has the setting in another place.
_set_log_level: Callable[[int], object] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
_set_log_level(0)


class PictureError(ValueError):
    """A picture that is not taken. `reason` is a counter's name, `detail` is for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded."""

    kind: str
    """`jpeg`, `png`, `bmp` or `webp`, by its first bytes and not by a file's name."""
    width: int
    height: int
    passes: int = 1
    """Scans of a JPEG."""
    components: int = 3
    exif: bool = False
    """Whether it may ask to be turned."""
    scans_at: int = 0
    """Where a JPEG's first scan begins: what comes before can differ from one copy of a picture to the next."""


def read_header(data: bytes | memoryview) -> Header:
    """Kind and size of the picture in `data`, its structure checked to the end mark; nothing is decoded.

    Raises PictureError: `not_picture`; `corrupt` (cut short, damaged); `unsupported`; `bad_size` (too many pixels, or
    too many passes over them).
    """
    view = memoryview(data).cast("B")
    for magic, kind in _KINDS.items():
        if bytes(view[: len(magic)]) == magic:
            header = kind(view)
            break
    else:
        raise PictureError("not_picture", "no JPEG, PNG, BMP or WebP begins like this")
    _check_size(header.width, header.height)
    return header


def _check_size(width: int, height: int, passes: int = 1) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise PictureError("bad_size", f"{width}x{height}, at most {MAX_PIXELS} pixels")
    if width * height * passes > MAX_PASSES_PIXELS:
        raise PictureError("bad_size", f"{width}x{height} in {passes} scans")


def work_ns(data: bytes | memoryview) -> int:
    """How long `data` may keep a decoder busy, roughly, at a glance: by its bytes and by what it announces.

    More than it will be where no JPEG's frame is found near the begin. Costs some microseconds; raises nothing.
    """
    view = memoryview(data).cast("B")
    return NS_PER_BYTE * len(view) + NS_PER_PIXEL * _announced(view)


def _announced(view: memoryview) -> int:
    """Pixels times passes of a JPEG's frame, MAX_PIXELS at most; as many where there is none to be seen."""
    at = 2
    try:
        for _ in range(LOOK_SEGMENTS):
            marker = view[at + 1]
            if marker in _WHOLE_PICTURE:
                pixels = (view[at + 5] << 8 | view[at + 6]) * (view[at + 7] << 8 | view[at + 8])
                return min(MAX_PIXELS, pixels * (PROGRESSIVE_PASSES if marker == 0xC2 else 1))
            at += 2 + (view[at + 2] << 8 | view[at + 3])
    except IndexError:
        pass
    return MAX_PIXELS


def decode(data: bytes | memoryview, fewest: Fewest | None = None) -> NDArray[np.uint8]:
    """The picture in `data` as [height, width, 3] uint8 BGR, turned as its EXIF says.

    With `fewest`, a JPEG is decoded to 1/8, 1/4 or 1/2 of its width and height, the smallest that still has as many
    pixels and divides both evenly (else the picture's edges would shift). That saves most of the time; every bit of it
    is read and judged all the same.

    Raises PictureError as `read_header`, and `corrupt` where the decoder would have had to patch something up.
    Releases the GIL while decoding.
    """
    view = memoryview(data).cast("B")
    header = read_header(view)
    if header.kind != "jpeg":
        return _by_opencv(_without_extras(view) if header.kind == "png" else view, header)
    reduction = _reduction(header, fewest)
    width, height = header.width // reduction, header.height // reduction
    try:
        image = simplejpeg.decode_jpeg(view, "BGR", strict=True, min_width=width, min_height=height)
    except ValueError as error:
        raise PictureError("corrupt", str(error)) from None
    if header.components == 4 or header.exif:
        # OpenCV knows how to print colours and to turn; decoded twice, but proven whole before.
        return _by_opencv(view, header, reduction)
    return image  # type: ignore[no-any-return]


def _reduction(header: Header, fewest: Fewest | None) -> int:
    """By how much the sides of a JPEG may be divided; one that may be turned must have enough pixels either way."""
    if fewest is None:
        return 1
    least = [fewest(header.width, header.height)]
    if header.exif:
        least.append(fewest(header.height, header.width)[::-1])
    return next((by for by in REDUCTIONS if all(_has(header, by, *needed) for needed in least)), 1)


def _has(header: Header, reduction: int, width: int, height: int) -> bool:
    even = header.width % reduction == 0 and header.height % reduction == 0
    return even and header.width // reduction >= width and header.height // reduction >= height


def _by_opencv(view: memoryview, header: Header, reduction: int = 1) -> NDArray[np.uint8]:
    pixels = (header.width // reduction) * (header.height // reduction)
    try:
        image = cv2.imdecode(np.frombuffer(view, np.uint8), _REDUCED.get(reduction, cv2.IMREAD_COLOR))
    except cv2.error as error:
        raise PictureError("corrupt", f"{header.kind}: {error.err}") from None
    if image is None or image.shape[0] * image.shape[1] != pixels:
        raise PictureError("corrupt", f"the {header.kind} cannot be decoded")
    return image  # type: ignore[return-value]  # IMREAD_COLOR gives uint8


def _number(view: memoryview, at: int, size: int, order: str = "big", signed: bool = False) -> int:
    if at + size > len(view):
        raise PictureError("corrupt", "cut short in its header")
    return int.from_bytes(view[at : at + size], order, signed=signed)  # type: ignore[arg-type]  # "big" or "little"


def _jpeg(view: memoryview) -> Header:
    """Walk the segments (ITU-T T.81, Annex B) from the first to the end mark. Once a frame: no call for each number."""
    try:
        return _walked(view)
    except IndexError:
        raise PictureError("corrupt", "cut short in its header") from None


def _walked(view: memoryview) -> Header:
    marks = _Marks(view)
    frame: tuple[int, int, int] | None = None
    scans, scans_at, exif, at = 0, 0, False, 2
    for _ in range(MAX_SEGMENTS):
        if view[at] != 0xFF:
            raise PictureError("corrupt", f"byte {at}: a segment was expected")
        while (marker := view[at]) == 0xFF:
            at += 1
        at += 1
        if marker == 0xD9:
            if frame is None or not scans:
                raise PictureError("corrupt", "it ends before it has a picture")
            return Header("jpeg", frame[0], frame[1], scans, frame[2], exif, scans_at)
        if marker in _OTHER_FRAMES or (marker in _WHOLE_PICTURE and frame is not None):
            raise PictureError("unsupported", f"a JPEG of kind SOF{marker - 0xC0}")
        if marker in _WHOLE_PICTURE:
            if view[at + 2] != 8:
                raise PictureError("unsupported", f"{view[at + 2]} bits a sample")
            frame = view[at + 5] << 8 | view[at + 6], view[at + 3] << 8 | view[at + 4], view[at + 7]
            _check_size(*frame[:2])
        exif |= marker == 0xE1 and bytes(view[at + 2 : at + 6]) == b"Exif"
        length = view[at] << 8 | view[at + 1]
        if length < 2:
            raise PictureError("corrupt", f"byte {at}: a segment of {length} bytes")
        at += length
        if marker == 0xDA:
            scans += 1
            scans_at = scans_at or at
            if frame is not None:
                _check_size(frame[0], frame[1], scans)
            at = marks.after(at)
    raise PictureError("corrupt", f"more than {MAX_SEGMENTS} segments")


class _Marks:
    """Where in a JPEG's scans something begins that is no scan: found piece by piece, as far as is asked."""

    def __init__(self, view: memoryview) -> None:
        self._array = np.frombuffer(view, np.uint8)
        self._begin = self._end = 0
        self._found: NDArray[np.intp] = np.empty(0, np.intp)

    def after(self, at: int) -> int:
        """The first at or behind `at`, which never goes back. Raises PictureError where there is none."""
        self._end = max(self._end, at)
        while True:
            following = int(np.searchsorted(self._found, at - self._begin))
            if following < len(self._found):
                return self._begin + int(self._found[following])
            if self._end >= len(self._array) - 1:
                raise PictureError("corrupt", "its end mark is missing: it was cut short")
            self._begin = self._end
            piece = self._array[self._begin : self._begin + MARKS_BYTES + 1]
            self._end = self._begin + len(piece) - 1
            found = np.flatnonzero(piece[:-1] == 0xFF)
            self._found = found[~_NO_MARKER[piece[found + 1]]]


def _png(view: memoryview) -> Header:
    """Walk the chunks and their checksums to IEND, and the packed rows (PNG specification, chapters 5, 8 to 11)."""
    chunks = _chunks(view)
    names = [name for name, *_ in chunks]
    if names[:1] != [b"IHDR"] or names.count(b"IHDR") != 1 or chunks[0][3] != 13:
        raise PictureError("corrupt", "it does not begin with one IHDR")
    if names[-1] != b"IEND":
        raise PictureError("corrupt", "its end is missing: it was cut short")
    width, height = _number(view, 16, 4), _number(view, 20, 4)
    bits, colour, packing, filtering, interlaced = view[24:29]
    if bits not in _PNG_BITS.get(colour, ()) or packing or filtering or interlaced > 1:
        raise PictureError("unsupported", f"a PNG of {bits} bits and colour type {colour}")
    if colour == 3 and not any(name == b"PLTE" and 0 < size <= 768 and size % 3 == 0 for name, _, _, size in chunks):
        raise PictureError("corrupt", "it has no palette")
    if 0 < width * height <= MAX_PIXELS:
        rows, expected = _png_rows(width, height, bits * _PNG_CHANNELS[colour], bool(interlaced))
        _check_rows([view[at : at + size] for name, _, at, size in chunks if name == b"IDAT"], rows, expected)
    return Header("png", width, height)


def _png_rows(width: int, height: int, bits: int, interlaced: bool) -> tuple[NDArray[np.int64], int]:
    """Where each row begins in the unpacked data, and the size of it all."""
    begins, total = [], 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = max(0, -(-(width - left) // across)), max(0, -(-(height - top) // down))
        if columns and rows:
            stride = 1 + (columns * bits + 7) // 8
            begins.append(total + np.arange(rows, dtype=np.int64) * stride)
            total += rows * stride
    return np.concatenate(begins), total


def _check_rows(parts: list[memoryview], rows: NDArray[np.int64], expected: int) -> None:
    """Unpack piece by piece: as many bytes as the header says, and a filter that exists at each row's begin."""
    inflate, seen = zlib.decompressobj(), 0
    try:
        for part in parts:
            waiting: bytes | memoryview = part
            while waiting and not inflate.eof:
                piece = inflate.decompress(waiting, PIECE_BYTES)
                first, last = np.searchsorted(rows, (seen, seen + len(piece)))
                if (np.frombuffer(piece, np.uint8)[rows[first:last] - seen] > 4).any():
                    raise PictureError("corrupt", "a row has a filter that does not exist")
                seen += len(piece)
                if seen > expected:
                    raise PictureError("corrupt", "it holds more than its header says")
                waiting = inflate.unconsumed_tail
    except zlib.error as error:
        raise PictureError("corrupt", f"its packed rows: {error}") from None
    if seen != expected or not inflate.eof:
        raise PictureError("corrupt", f"{seen} of {expected} bytes of its rows")


def _chunks(view: memoryview) -> list[tuple[bytes, int, int, int]]:
    """Name, begin, begin of the content and its length of every chunk up to IEND."""
    found: list[tuple[bytes, int, int, int]] = []
    at = 8
    while at < len(view):
        if len(found) == MAX_CHUNKS:
            raise PictureError("corrupt", f"more than {MAX_CHUNKS} chunks")
        length = _number(view, at, 4)
        name = bytes(view[at + 4 : at + 8])
        if _number(view, at + 8 + length, 4) != zlib.crc32(view[at + 4 : at + 8 + length]):
            raise PictureError("corrupt", f"byte {at}: the checksum of {name!r} is wrong")
        found.append((name, at, at + 8, length))
        if name == b"IEND":
            break
        at += 12 + length
    return found


def _without_extras(view: memoryview) -> memoryview:
    """A PNG of what its pixels need: libpng writes complaints about colour profiles and the like to stderr."""
    kept = [bytes(view[at : start + length + 4]) for name, at, start, length in _chunks(view) if name in _KEPT_CHUNKS]
    return memoryview(b"".join([bytes(view[:8]), *kept]))


def _bmp(view: memoryview) -> Header:
    """BITMAPFILEHEADER and what follows it; rows are padded to four bytes."""
    old = _number(view, 14, 4, "little") == 12
    size = 2 if old else 4
    width = _number(view, 18, size, "little", signed=not old)
    height = abs(_number(view, 18 + size, size, "little", signed=not old))
    bits = _number(view, 24 if old else 28, 2, "little")
    packed = not old and _number(view, 30, 4, "little") in (1, 2)  # run lengths: no telling how long
    needed = _number(view, 10, 4, "little") + (0 if packed else (width * bits + 31) // 32 * 4 * height)
    if 0 < width * height <= MAX_PIXELS and len(view) < needed:
        raise PictureError("corrupt", f"{len(view)} of {needed} bytes: it was cut short")
    return Header("bmp", width, height)


def _webp(view: memoryview) -> Header:
    """RIFF container (RFC 9649, chapters 2 and 3); an animation's first picture counts."""
    if bytes(view[8:12]) != b"WEBP":
        raise PictureError("not_picture", "RIFF, but no WebP")
    if len(view) < _number(view, 4, 4, "little") + 8:
        raise PictureError("corrupt", "it was cut short")
    name = bytes(view[12:16])
    if name == b"VP8 ":
        return Header("webp", _number(view, 26, 2, "little") & 0x3FFF, _number(view, 28, 2, "little") & 0x3FFF)
    if name == b"VP8L":
        bits = _number(view, 21, 4, "little")
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if name == b"VP8X":
        return Header("webp", _number(view, 24, 3, "little") + 1, _number(view, 27, 3, "little") + 1)
    raise PictureError("corrupt", f"a WebP that begins with {name!r}")


_KINDS: dict[bytes, Callable[[memoryview], Header]] = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"RIFF": _webp,
}
"""First bytes to what reads the rest of the header."""
