"""Moments worth labelling: what the model is unsure of or disagrees about, what is rare, what is unlike the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from build_engines.fleet.query import ask
from calibration.near import Fingerprint, pairs
from edge_runtime.errors import UserError

UNSURE = 0.5
"""A margin between the two most probable labels below this is worth a look."""
RARE = 0.05
"""So is a label that is a smaller share of all decisions,"""
UNLIKE = 1.5
"""features so many times as far from the nearest others as is usual,"""
DRIFTED = 5.0
"""and a recording one of whose channels is so many deviations farther from the others' than is usual."""
STABLE = 0.1
"""Stability indices that differ by less than this differ by nothing."""
WAYS = ("unsure", "disagreeing", "rare", "unlike", "drifted")
COLUMNS = ("recording", "seq", "recorded", "label", "other", "confidence", "margin", "share", "unlike", "fingerprint",
           "condition", "path")  # fmt: skip


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
    joined) is true of. The `ways` of being worth it (WAYS, or `unlike STAGE`) take turns, each giving the strongest
    that it has left; no moment is nearly another one, and no recording gives more than `each`. Raises UserError.
    """
    names = ", ".join(COLUMNS)
    _, rows = ask(
        folder, f"SELECT {names} FROM moments JOIN recordings USING (recording) WHERE ({where}) ORDER BY recording, seq"
    )
    moments = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    drifts = drifts_of(folder)
    stages = {f"unlike {stage}" for moment in moments for stage in moment["unlike"]}
    if unknown := [way for way in ways if way not in {*WAYS, *stages}]:
        there = ", ".join([*WAYS, *sorted(stages)])
        raise UserError(f"mine: there is no way {unknown[0]!r}; there are {there}")
    reasons = [one for moment in moments for one in _reasons(moment, drifts) if {one.way, one.turn} & set(ways)]
    queues = _queues(reasons)
    chosen: list[Pick] = []
    prints: list[Fingerprint] = []
    given: Counter[str] = Counter()
    while queues and len(chosen) < count:
        for name in list(queues):
            pick = None
            while queues[name] and pick is None and len(chosen) < count:
                pick = _taken(queues[name].pop(), prints, given, each)
            if pick is None:
                del queues[name]
            else:
                chosen.append(pick)
    return chosen


class _Reason(NamedTuple):
    """Why a moment is worth it."""

    way: str
    turn: str
    """Reasons of one turn queue up: every stage that a moment may be unlike by has its own."""
    strength: float
    why: str
    moment: Mapping[str, Any]


def _reasons(moment: Mapping[str, Any], drifts: Mapping[str, tuple[float, str]]) -> Iterator[_Reason]:
    label, margin, share = moment["label"], moment["margin"], moment["share"]
    if margin < UNSURE:
        yield _Reason("unsure", "unsure", -margin, f"unsure: {label} by {margin:.2f}", moment)
    recorded, other = moment["recorded"], moment["other"]
    if not label == recorded == other:
        why = f"disagreeing: {label}, recorded {recorded}, the other {other}"
        yield _Reason("disagreeing", "disagreeing", moment["confidence"], why, moment)
    if share < RARE:
        yield _Reason("rare", "rare", -share, f"rare: {label} is {share:.1%} of all", moment)
    for stage, far in moment["unlike"].items():
        if far > UNLIKE:
            why = f"unlike: {stage} is {far:.1f} times as far from the nearest others as usual"
            yield _Reason("unlike", f"unlike {stage}", far, why, moment)
    deviations, channel = drifts.get(moment["recording"], (0.0, ""))
    if deviations > DRIFTED:
        why = f"drifted: {channel} of the recording is {deviations:.0f} deviations from the others"
        yield _Reason("drifted", "drifted", deviations, why, moment)


def _queues(reasons: Sequence[_Reason]) -> dict[str, list[_Reason]]:
    """Turn to its reasons, the strongest last; of equally strong ones the first by name. That a recording has drifted
    is one finding: it is told of the moment that is least like others."""
    queues: dict[str, list[_Reason]] = {}
    drifted: dict[str, _Reason] = {}
    for one in (one for one in reasons if one.way == "drifted"):
        name = one.moment["recording"]
        drifted[name] = max(
            drifted.get(name, one), one, key=lambda one: max(one.moment["unlike"].values(), default=0.0)
        )
    reasons = [*(one for one in reasons if one.way != "drifted"), *drifted.values()]
    for one in sorted(reasons, key=lambda one: (one.turn, -one.strength, one.moment["recording"], one.moment["seq"])):
        queues.setdefault(one.turn, []).append(one)
    return {turn: queue[::-1] for turn, queue in queues.items()}


def _taken(reason: _Reason, prints: list[Fingerprint], given: Counter[str], each: int) -> Pick | None:
    moment = reason.moment
    fingerprint = msgspec.msgpack.decode(moment["fingerprint"], type=Fingerprint)
    name = moment["recording"]
    if given[name] >= each or next(pairs([fingerprint], prints), None) is not None:
        return None
    given[name] += 1
    prints.append(fingerprint)
    return Pick(
        name, moment["seq"], moment["path"], moment["condition"], moment["label"], moment["confidence"], reason.why
    )


def drifts_of(folder: Path) -> dict[str, tuple[float, str]]:
    """Recording to how many deviations its farthest channel is farther from what it is compared with than that channel
    is in the middle one of the recordings, and to that channel. Deviations are 1.4826 times the median one, as of
    normal values."""
    _, rows = ask(
        folder,
        "SELECT recording, stream || ' ' || channel AS name, psi, median(psi) OVER same, mad(psi) OVER same "
        "FROM channels WHERE psi IS NOT NULL WINDOW same AS (PARTITION BY stream, channel) "
        "ORDER BY recording, name",
    )
    found: dict[str, tuple[float, str]] = {}
    for recording, channel, psi, usual, spread in rows:
        deviations = (psi - usual) / max(1.4826 * spread, STABLE)
        if deviations > found.get(recording, (0.0, ""))[0]:
            found[recording] = (deviations, channel)
    return found
