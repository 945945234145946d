"""Moments that are nearly the same: what a camera sees of a standing car, three times a second.

Two moments are near when all that is present in them is: pictures by a perceptual hash of what is brighter than what
and by their colours on a coarse grid, the same sentence, sensor windows within a fraction of a deviation. One that
lacks a stream is never near one that has it. What is told this way is the same view a moment later, recompressed or
dimmed a little; the same place from a step further on, cropped or mirrored is not: keep what is not independent in one
`group`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.messages import Tensor

MAX_BITS = 2
"""Hashes of pictures may differ in this many of their 64 bits: a recompressed or barely moved picture does."""
MAX_LEVELS = 16
"""Mean colours of a picture's parts may differ by this much of 255: more than noise and recompression make of it, less
than a traffic light that changes."""
MAX_SIGMA = 0.25
"""Sensor values, in units of their deviation, may differ by this much: the noise of a car's sensors while it stands."""
_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)
"""Set bits of each 16-bit number."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What nearness is told by."""

    exact: str = ""
    """Digest of what must be equal: which streams are there, the sentence's tokens, which readings are missing."""
    hashes: tuple[int, ...] = ()
    """`dhash` of each picture."""
    colours: bytes = b""
    """`mean_colours` of all pictures."""
    readings: bytes = b""
    """All windows of readings, of sensors or of sound, standardised: float32."""


def dhash(image: Tensor) -> int:
    """64 bits that say where a picture ([H, W, 3] BGR, uint8) grows brighter to the right, on a grid of 9 x 8.

    Source: Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    brighter = np.packbits((small[:, 1:] > small[:, :-1]).ravel())
    return int.from_bytes(brighter.tobytes(), "big")


def mean_colours(image: Tensor) -> bytes:
    """Mean blue, green and red of each part of a picture ([H, W, 3] BGR, uint8) on a grid of 6 x 4: 72 bytes."""
    return cv2.resize(np.ascontiguousarray(image), (6, 4), interpolation=cv2.INTER_AREA).tobytes()


NOTHING = Fingerprint()


class _Group:
    """Fingerprints of one `exact`, ready to be searched: in the order of the reading that varies most."""

    def __init__(self, prints: Sequence[Fingerprint], places: Sequence[int]) -> None:
        readings = np.frombuffer(b"".join(fingerprint.readings for fingerprint in prints), np.float32).reshape(
            len(prints), -1
        )
        self._first = int(readings.std(axis=0).argmax()) if readings.shape[1] else None
        keys = np.zeros(len(prints), np.float32) if self._first is None else readings[:, self._first]
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._readings = readings[order]
        self._hashes = np.array([fingerprint.hashes for fingerprint in prints], np.uint64).reshape(len(prints), -1)[
            order
        ]
        colours = np.frombuffer(b"".join(fingerprint.colours for fingerprint in prints), np.uint8)
        self._colours = colours.reshape(len(prints), -1)[order].astype(np.int16)
        self._places = np.array(places, np.int64)[order]

    def near(self, fingerprint: Fingerprint) -> NDArray[np.int64]:
        """The places of those near `fingerprint`."""
        readings = np.frombuffer(fingerprint.readings, np.float32)
        key = 0.0 if self._first is None else float(readings[self._first])
        # A little more than the limit, which is held below: no rounding may leave one out.
        low, high = np.searchsorted(self._keys, (key - 1.01 * MAX_SIGMA, key + 1.01 * MAX_SIGMA))
        candidates = np.arange(low, high)
        for camera, value in enumerate(fingerprint.hashes):
            differing = self._hashes[candidates, camera] ^ np.uint64(value)
            differing_bits = _ONES[differing.view(np.uint16).reshape(len(candidates), 4)].sum(axis=1)
            candidates = candidates[differing_bits <= MAX_BITS]
        colours = np.frombuffer(fingerprint.colours, np.uint8).astype(np.int16)
        if colours.size and len(candidates):
            apart = np.abs(self._colours[candidates] - colours).max(axis=1)
            candidates = candidates[apart <= MAX_LEVELS]
        if readings.size and len(candidates):
            candidates = candidates[np.abs(self._readings[candidates] - readings).max(axis=1) <= MAX_SIGMA]
        return self._places[candidates]


def _grouped(prints: Sequence[Fingerprint], key: Callable[[int], Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, fingerprint in enumerate(prints):
        if fingerprint.hashes or fingerprint.readings:
            groups[key(place)].append(place)
    return groups


def first_of_each(prints: Sequence[Fingerprint], labels: Sequence[str]) -> list[int]:
    """Places of the moments to keep, in order: one is left out if one that was kept before it, of the same label, is
    near it. Moments without pictures and readings are all kept.

    Time: a group's size times what is within reach of each in the reading that varies most; groups are those of the
    same sentence and label.
    """
    left_out: set[int] = set()
    for places in _grouped(prints, lambda place: (prints[place].exact, labels[place])).values():
        group = _Group([prints[place] for place in places], places)
        for place in places:
            if place not in left_out:
                left_out.update(int(other) for other in group.near(prints[place]) if other > place)
    return [place for place in range(len(prints)) if place not in left_out]


def pairs(some: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """For each of `some` that is near one of `others`: its place, and that one's."""
    groups = {
        exact: _Group([others[place] for place in places], places)
        for exact, places in _grouped(others, lambda place: others[place].exact).items()
    }
    for place, moment in enumerate(some):
        group = groups.get(moment.exact)
        near_places = group.near(moment) if group is not None and (moment.hashes or moment.readings) else ()
        if len(near_places):
            yield place, int(min(near_places))
