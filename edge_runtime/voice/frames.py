"""What a runtime and the process that listens for it say over two pipes: MessagePack behind its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from edge_runtime.admit import Refusal
from edge_runtime.messages import Words

MAX_BYTES = 2 << 20
"""Of one frame: a grammar is the longest thing that is said."""
_LENGTH = struct.Struct("<I")


class FrameError(Exception):
    """What comes can be no frame."""


class Said(NamedTuple):
    """What became of an utterance."""

    content: Words | Refusal
    ended_ns: int
    """End of the speech, monotonic."""


class Setup(Struct, frozen=True, tag=True):
    """The first frame: for whom to listen, and how. See `config.VoiceSource`."""

    recogniser: str
    grammar: bytes | None
    """A file's bytes..."""
    where: str
    """... and what errors call it."""
    pack: str
    host: str
    port: int
    language: str
    wake_word: str
    longest_s: float
    min_snr_db: float
    max_score: float
    min_margin: float
    speed: float


class Sound(Struct, frozen=True, tag=True):
    """What was heard."""

    pcm: bytes
    """int16, little-endian, 16 kHz mono."""
    captured_ns: int
    """When its last sample was taken; monotonic, which is one clock for all processes."""


class Lost(Struct, frozen=True, tag=True):
    """Sound is missing between what came and what comes."""


class End(Struct, frozen=True, tag=True):
    """Nothing more will come."""


class Opened(Struct, frozen=True, tag=True):
    """It listens from now on."""


class Unfit(Struct, frozen=True, tag=True):
    """It cannot listen with what it was given."""

    kind: str
    """The error's class."""
    message: str


class Told(Struct, frozen=True, tag=True):
    """An utterance's end."""

    said: Said


class Ended(Struct, frozen=True, tag=True):
    """All has been looked at that came before the end."""


Request = Setup | Sound | Lost | End
Answer = Opened | Unfit | Told | Ended
T = TypeVar("T")


def packed(message: Request | Answer) -> bytes:
    """As it is sent."""
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data


class Incoming(Generic[T]):
    """Messages out of bytes as they come. One thread."""

    def __init__(self, kinds: type[T]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()

    def messages(self, data: bytes) -> Iterator[T]:
        """Those that are whole with `data`. Raises FrameError for what can be none, before it is read in full."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_BYTES:
                raise FrameError(f"a frame of {length} bytes, at most {MAX_BYTES} are taken")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise FrameError(f"no message ({error})") from None
