"""Payloads made to hurt: small pictures that cost much, words and names that break parsers and logs."""

from __future__ import annotations

import functools
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from edge_runtime.world.simulation import Simulation
from edge_runtime.world.view import View, to_jpeg

FORGED = "FORGED LINE"
"""A log line that begins with this was made up by a sender."""
SENSORS = {"speed_mps": 5.0, "yaw_rate_radps": 0.0, "accel_mps2": 0.0} | {f"range_{i}_m": 50.0 for i in range(9)}


def message(stream: str, **fields: Any) -> bytes:
    return json.dumps({"schema": 1, "stream": stream, **fields}, ensure_ascii=False).encode()


@functools.cache
def frame() -> bytes:
    """A JPEG of the town."""
    simulation = Simulation(seed=7)
    return to_jpeg(View(simulation.town, seed=7).draw(simulation))


@functools.cache
def jpeg(width: int, height: int, quality: int = 85, progressive: bool = False) -> bytes:
    """A smooth noisy picture, as a camera's would be."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return bytes(cv2.imencode(".jpg", image, options)[1])


def picture_of_4k() -> bytes:
    return jpeg(3840, 2160)


def announced(width: int, height: int) -> bytes:
    """A JPEG of the town whose header announces another size."""
    data = bytearray(frame())
    at = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@functools.cache
def endless_scans(width: int = 4096, height: int = 4096, scans: int = 5000) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(64, 64, progressive=True)
    last = data.rindex(b"\xff\xda")
    body = bytearray(data[:-2] + data[last:-2] * scans + b"\xff\xd9")
    at = body.index(b"\xff\xc2")
    body[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(body)


@functools.cache
def png_of_nothing(width: int, height: int) -> bytes:
    """A PNG of that size, black and a thousandth of its pixels large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer, row = zlib.compressobj(6), bytes(1 + width * 3)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@functools.cache
def pictures() -> list[bytes]:
    """Bombs, and pictures that are cut, damaged, or of another kind than their first bytes say."""
    whole = frame()
    return [
        announced(65500, 65500),
        announced(7680, 4320),
        announced(0, 1),
        endless_scans(),
        png_of_nothing(12000, 12000),
        png_of_nothing(7680, 4320),
        b"BM" + struct.pack("<IHHIIiiHHII", 0, 0, 0, 54, 40, 1 << 30, -(1 << 30), 1, 24, 0, 0) + bytes(64),
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6,
        whole[: len(whole) // 2],
        whole[:-2],
        whole[:2000] + bytes(500) + whole[2500:],
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000 + b"\xff\xd9",
        b"\xff\xd8\xff\xe0\xff\xff" + bytes(200),
        b"GIF89a" + bytes(100),
        b"",
    ]


def poison() -> list[bytes]:
    """JSON bodies that parsers have tripped over."""
    deep = b"[" * 30_000
    return [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{",
        b'{"schema":1,"stream":"sensors","values":' + deep,
        b'{"schema":1,"stream":"sensors","values":{"a":' + b'{"a":' * 10_000,
        b'{"schema":1,"stream":"sensors","values":{"speed_mps":1e999,"yaw_rate_radps":-1e999}}',
        b'{"schema":1,"stream":"sensors","values":{"speed_mps":NaN,"accel_mps2":Infinity}}',
        b'{"schema":1,"stream":"sensors","values":{"speed_mps":' + b"9" * 60_000 + b"}}",
        b'{"schema":1,"stream":"sensors","values":{"speed_mps":"' + b"9" * 60_000 + b'"}}',
        b'{"schema":1,"stream":"sensors","captured_ns":' + b"9" * 5000 + b',"values":{}}',
        b'{"schema":1,"stream":"sensors","captured_ns":9223372036854775807,"values":{"speed_mps":1}}',
        b'{"schema":1,"stream":"sensors","captured_ns":-1,"values":{"speed_mps":1}}',
        b'{"schema":' + b"1" * 10_000 + b',"stream":"text","text":"x"}',
        b'{"schema":1,"stream":"text","text":"\\ud800"}',
        b'{"schema":1,"stream":"text","text":"\xed\xa0\x80"}',
        b'{"schema":1,"stream":"text","text":"' + b"\\u0000" * 10_000 + b'"}',
        message("text", text="x" * 60_000),
        message("text", text="left", id="i" * 60_000),
        message("text", text="left", lang="\r\n"),
        message("s" * 60_000, text="left"),
        message("nobody", text="left"),
        message("sensors", values={f"c{i}": i for i in range(4000)}),
        message("sensors", text="turn left"),
        message("sensors", values={}, text="both"),
        message("camera.front"),
        message("text", text="\u200b" * 500),
        message("sensors", values={"speed_mps": None, "yaw_rate_radps": "unavailable", "accel_mps2": True}),
        message("sensors", values={"speed_mps": 1e30, "no_such": 1.0, "range_0_m": -5}),
    ]


def forging(rng: random.Random) -> list[bytes]:
    """Names that would begin a line of the log, were they written as they come; another one each time."""
    name = f"{rng.random()}\n{FORGED} {rng.random()}\x1b[2J\x1b[31m\r"
    return [
        message(name, text="x"),
        message("sensors", values={name: 1.0}),
        message("sensors", values={"speed_mps": name}),
        message("text", text="x", lang=name),
        message("text", text=name, id=name),
        message("camera.front", captured_wall=name),
        json.dumps({"schema": 1, "stream": "text", name: name}).encode(),
        json.dumps({"schema": name, "stream": "text"}).encode(),
        name.encode(),
    ]


_JSON_ATOMS = ("null", "true", "1e999", "-1", "NaN", "9" * 400, '""', "[]", "{}", '"\\ud800"', "1.5e-400", "0x10")


def mutated(rng: random.Random) -> list[bytes]:
    """The parts of one message that was valid before something was done to it."""
    parts = _valid(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        parts = rng.choice(_CHANGES)(parts, rng)
    return parts


def _valid(rng: random.Random) -> list[bytes]:
    stamp = {} if rng.random() < 0.5 else {"captured_ns": rng.randrange(1 << 62), "id": f"m{rng.randrange(1 << 30)}"}
    kind = rng.randrange(4)
    if kind == 0:
        return [message("text", text="turn left at the next junction", lang="en", **stamp)]
    if kind == 1:
        return [message("camera.front", **stamp), rng.choice(_small())]
    stream = rng.choice(("sensors", "position"))
    return [message(stream, values=SENSORS if stream == "sensors" else {"x_m": 1.0, "y_m": 2.0}, **stamp)]


@functools.cache
def _small() -> tuple[bytes, ...]:
    image = cv2.resize(cv2.imdecode(np.frombuffer(frame(), np.uint8), cv2.IMREAD_COLOR), (160, 96))
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    kinds = ((".jpg", []), (".jpg", progressive), (".png", []), (".bmp", []), (".webp", []))
    return tuple(bytes(cv2.imencode(kind, image, options)[1]) for kind, options in kinds)


def _flip(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Some bytes of a part, more often near its begin: there the headers are."""
    at = rng.randrange(len(parts))
    data = bytearray(parts[at])
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[min(int(rng.expovariate(1 / 40)), len(data) - 1)] = rng.randrange(256)
    return [*parts[:at], bytes(data), *parts[at + 1 :]]


def _cut(parts: list[bytes], rng: random.Random) -> list[bytes]:
    at = rng.randrange(len(parts))
    return [*parts[:at], parts[at][: rng.randrange(len(parts[at]) + 1)], *parts[at + 1 :]]


def _splice(parts: list[bytes], rng: random.Random) -> list[bytes]:
    at, other = rng.randrange(len(parts)), rng.choice(_valid(rng))
    data, cut = parts[at], rng.randrange(len(parts[at]) + 1)
    return [*parts[:at], data[:cut] + other[: rng.randrange(len(other) + 1)] + data[cut:], *parts[at + 1 :]]


def _atom(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Another value, name or nesting in the JSON."""
    try:
        fields = json.loads(parts[0])
    except (ValueError, RecursionError):
        return parts
    if not isinstance(fields, dict) or not fields:
        return parts
    target = fields["values"] if isinstance(fields.get("values"), dict) and rng.random() < 0.5 else fields
    key = rng.choice([*target, "new"]) if target else "new"
    choice = rng.randrange(4)
    if choice == 0:
        target[key] = "@@"
        body = json.dumps(fields, ensure_ascii=False).replace('"@@"', rng.choice(_JSON_ATOMS), 1)
        return [body.encode("utf-8", "surrogatepass"), *parts[1:]]
    if choice == 1:
        target["".join(chr(rng.choice((10, 27, 0x202E, 0x1F600, 65))) for _ in range(rng.randrange(200)))] = 1
    elif choice == 2:
        target[key] = {"a": [target.get(key)] * rng.randrange(20)}
    else:
        target.pop(key, None)
    return [json.dumps(fields).encode(), *parts[1:]]


def _length(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Some two or four bytes of the last part become another number: sizes and lengths among them."""
    data = bytearray(parts[-1])
    size = rng.choice((2, 4))
    if len(data) > size:
        at = rng.randrange(min(len(data) - size, 700))
        data[at : at + size] = rng.choice((b"\0" * size, b"\xff" * size, rng.randbytes(size)))
    return [*parts[:-1], bytes(data)]


def _parts(parts: list[bytes], rng: random.Random) -> list[bytes]:
    choice = rng.randrange(4)
    if choice == 0:
        return [*parts, *parts]
    if choice == 1:
        return parts[::-1]
    if choice == 2:
        return [*parts, *[b"x"] * rng.randrange(1, 40)]
    return parts[-1:]


_CHANGES: tuple[Callable[[list[bytes], random.Random], list[bytes]], ...] = (
    _flip,
    _flip,
    _cut,
    _splice,
    _atom,
    _atom,
    _length,
    _parts,
)
