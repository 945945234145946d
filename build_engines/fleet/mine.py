"""Moments worth labelling: what the model is unsure of or disagrees about, what is rare, what is unlike the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from build_engines.fleet.index import read_index
from build_engines.fleet.query import ask
from calibration.near import Fingerprint, pairs
from edge_runtime.errors import UserError

UNSURE = 0.5
"""A margin between the two most probable labels below this is worth a look."""
RARE = 0.05
"""So is a label that is a smaller share of all decisions,"""
UNLIKE = 1.5
"""features so many times as far from the middle as is usual,"""
DRIFTED = 2.0
"""and a recording one of whose channels is so many times as far from the others' as is usual."""
STABLE = 0.1
"""A stability index below this counts as this: it is noise."""
WAYS = ("unsure", "disagreeing", "rare", "unlike", "drifted")
COLUMNS = ("recording", "seq", "recorded", "label", "other", "confidence", "margin", "share", "unlike", "unlike_by",
           "fingerprint", "condition", "path")  # fmt: skip


class Pick(Struct, frozen=True):
    """One moment."""

    recording: str
    seq: int
    path: str
    condition: str
    label: str
    """What the bundle decides."""
    confidence: float
    why: str
    """In words."""


def picks(folder: Path, where: str = "true", count: int = 50, ways: Sequence[str] = WAYS, each: int = 3) -> list[Pick]:
    """At most `count` moments of an index, of those that `where` (SQL, over the tables `moments` and `recordings`
    joined) is true of. The `ways` of being worth it take turns, each giving the strongest that it has left; no moment
    is nearly another one, and no recording gives more than `each`. Raises UserError.
    """
    names = ", ".join(COLUMNS)
    _, rows = ask(
        folder, f"SELECT {names} FROM moments JOIN recordings USING (recording) WHERE ({where}) ORDER BY recording, seq"
    )
    moments = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    drifts = drifts_of(folder)
    queues = {way: _queue(way, moments, drifts) for way in ways}
    chosen: list[Pick] = []
    prints: list[Fingerprint] = []
    given: Counter[str] = Counter()
    while queues and len(chosen) < count:
        for way in list(queues):
            pick = None
            while queues[way] and pick is None and len(chosen) < count:
                pick = _taken(way, queues[way].pop(), prints, given, each, drifts)
            if pick is None:
                del queues[way]
            else:
                chosen.append(pick)
    return chosen


def _taken(
    way: str, moment: Mapping[str, Any], prints: list[Fingerprint], given: Counter[str], each: int,
    drifts: Mapping[str, tuple[float, str]],
) -> Pick | None:  # fmt: skip
    fingerprint = msgspec.msgpack.decode(moment["fingerprint"], type=Fingerprint)
    name = moment["recording"]
    if given[name] >= each or next(pairs([fingerprint], prints), None) is not None:
        return None
    given[name] += 1
    prints.append(fingerprint)
    return Pick(
        name, moment["seq"], moment["path"], moment["condition"], moment["label"], moment["confidence"],
        _words(way, moment, drifts),
    )  # fmt: skip


def _queue(
    way: str, moments: Sequence[Mapping[str, Any]], drifts: Mapping[str, tuple[float, str]]
) -> list[Mapping[str, Any]]:
    """What is worth it that way, the strongest last."""
    strong = [(_strength(way, moment, drifts), moment) for moment in moments]
    kept = [(strength, moment) for strength, moment in strong if strength is not None]
    kept.sort(key=lambda item: (-item[0], -(item[1]["unlike"] or 0.0), item[1]["recording"], item[1]["seq"]))
    return [moment for _, moment in reversed(kept)]


def _strength(way: str, moment: Mapping[str, Any], drifts: Mapping[str, tuple[float, str]]) -> float | None:
    """None: not worth it that way."""
    if way == "unsure":
        return -moment["margin"] if moment["margin"] < UNSURE else None
    if way == "disagreeing":
        apart = moment["label"] not in (moment["recorded"], moment["other"]) or moment["other"] != moment["recorded"]
        return moment["confidence"] if apart else None
    if way == "rare":
        return -moment["share"] if moment["share"] < RARE else None
    if way == "unlike":
        far = moment["unlike"]
        return far if far is not None and far > UNLIKE else None
    if way == "drifted":
        times, _ = drifts.get(moment["recording"], (0.0, ""))
        return times if times > DRIFTED else None
    raise UserError(f"mine: there is no way {way!r}; there are {', '.join(WAYS)}")


def _words(way: str, moment: Mapping[str, Any], drifts: Mapping[str, tuple[float, str]]) -> str:
    if way == "unsure":
        return f"unsure: {moment['label']} by {moment['margin']:.2f}"
    if way == "disagreeing":
        return f"disagreeing: {moment['label']}, recorded {moment['recorded']}, the other {moment['other']}"
    if way == "rare":
        return f"rare: {moment['label']} is {moment['share']:.1%} of all"
    if way == "unlike":
        return f"unlike: {moment['unlike_by']} is {moment['unlike']:.1f} times as far as usual"
    times, channel = drifts[moment["recording"]]
    return f"drifted: {channel} of the recording is {times:.1f} times as far as usual"


def drifts_of(folder: Path) -> dict[str, tuple[float, str]]:
    """Recording to how many times as far its farthest channel is from what it is compared with as that channel is in
    the middle one of the recordings, and to that channel."""
    read_index(folder)
    _, rows = ask(
        folder,
        "SELECT recording, stream || ' ' || channel AS name, psi, median(psi) OVER (PARTITION BY stream, channel) "
        "FROM channels WHERE psi IS NOT NULL ORDER BY recording, name",
    )
    found: dict[str, tuple[float, str]] = {}
    for recording, channel, psi, usual in rows:
        times = psi / max(usual, STABLE)
        if times > found.get(recording, (0.0, ""))[0]:
            found[recording] = (times, channel)
    return found
