"""What was seen, as sensor readings: per class and zone how many, how surely, how large, moving or standing.

A channel `<class>.<zone>.<figure>` of a stream of sensors asks for one of them; the zone `picture` is the whole
picture. Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec import UnsetType

from edge_runtime.messages import Detection
from edge_runtime.zones import PICTURE, Zones, zones_of


def _area(thing: Detection) -> float:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)


FIGURES: dict[str, Callable[[Sequence[Detection]], float]] = {
    "count": lambda things: float(len(things)),
    "score": lambda things: max((thing.score for thing in things), default=0.0),
    "area": lambda things: max(map(_area, things), default=0.0),
    "moving": lambda things: float(sum(thing.moving is True for thing in things)),
    "standing": lambda things: float(sum(thing.moving is False for thing in things)),
}
"""Figure to what it is of the things of one class in one zone: how many; the best score; the largest share of the
picture; how many that have moved lately; how many that have not."""


class Wanted(NamedTuple):
    """What a channel asks for."""

    channel: str
    label: str
    zone: str
    figure: str


def wanted(channels: Iterable[str], zones: Zones) -> tuple[Wanted, ...]:
    """What `channels` ask for; those that end in no figure ask for nothing. Raises ValueError for an unknown zone."""
    found = []
    for channel in channels:
        rest, _, figure = channel.rpartition(".")
        label, _, zone = rest.rpartition(".")
        if figure not in FIGURES or not label:
            continue
        if zone != PICTURE and zone not in zones:
            raise ValueError(f"channel {channel!r} names the zone {zone!r}; there are {', '.join((PICTURE, *zones))}")
        found.append(Wanted(channel, label, zone, figure))
    return tuple(found)


def readings(things: Sequence[Detection], channels: Sequence[Wanted], zones: Zones) -> dict[str, float]:
    """Channel to its reading: 0 where nothing of the class is in the zone. Without tracks there is neither moving nor
    standing: those channels are left out where something is there that is not tracked.
    """
    places = {id(thing): (PICTURE, *zones_of(thing.box, zones)) for thing in things}
    values = {}
    for channel, label, zone, figure in channels:
        there = [thing for thing in things if thing.label == label and zone in places[id(thing)]]
        if figure in ("moving", "standing") and any(isinstance(thing.moving, UnsetType) for thing in there):
            continue
        values[channel] = FIGURES[figure](there)
    return values
