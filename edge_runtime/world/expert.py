"""The rules that give the right decision, from what the world knows and the senses can show.

Each label is a function of the present moment: light, distances, speeds and the last sentence heard; there is no
hidden memory. Thresholds change smoothly with speed so that a model near one is only slightly wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edge_runtime.world.commands import Meaning
from edge_runtime.world.signals import Light
from edge_runtime.world.town import Direction

Condition = Literal["day", "dusk", "fog"]
CONDITIONS: tuple[Condition, ...] = ("day", "dusk", "fog")

ZONE_M = 20.0
"""Junction rules hold from here to the stop line: near enough to see the light even in fog."""
STAND_M = 4.0
"""Where to stand before the line."""
LEAD_M = 30.0
"""Vehicles farther ahead do not matter."""
TEXT_TTL_S = 12.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What matters for the decision now."""

    t: float
    speed: float
    """m/s"""
    to_line: float
    """Metres from the front bumper to the stop line; negative beyond it."""
    in_junction: bool
    light: Light
    """Of the junction ahead."""
    exits: tuple[Direction, ...]
    gaps: tuple[tuple[Direction | None, float, float], ...]
    """By way through the junction (None: only up to the line): bumper gap (m) and speed (m/s) of the vehicle ahead."""
    heard: Meaning | None
    """Meaning of the last sentence, None where there was none within its time to live."""
    condition: Condition


def label(now: Situation) -> str:
    """The right decision."""
    following = _following(now)
    if following == "stop":
        return "stop"
    side = now.heard if now.heard in ("left", "right") else None
    if now.in_junction:
        if side is not None:
            return f"turn_{side}"
        return "slow" if now.heard != "straight" else following
    if now.to_line > ZONE_M:
        return following
    if _must_hold(now):
        return "stop" if now.to_line < STAND_M + now.speed**2 / 9.0 else "slow"
    return f"turn_{side}" if side is not None else following


def label_without_text(now: Situation) -> str:
    """The right decision where no sentence is heard."""
    return label(replace(now, heard=None))


def _must_hold(now: Situation) -> bool:
    """Whether the stop line must not be crossed: no command, red, or an amber that leaves room to stop."""
    if now.heard not in ("left", "right", "straight") or now.light == "red":
        return True
    return now.light == "amber" and now.to_line > 1.0 + now.speed**2 / 8.0


def _following(now: Situation) -> str:
    """`keep`, `slow` or `stop` for the vehicle ahead."""
    table = {way: (gap, speed) for way, gap, speed in now.gaps}
    way = now.heard if now.heard in now.exits else "straight" if now.heard == "straight" else None
    ahead = table.get(way) if way in table else table.get(None)
    if ahead is None or ahead[0] > LEAD_M:
        return "keep"
    gap, speed = ahead
    room = max(gap - 3.0, 0.1)
    brake = max(0.0, now.speed**2 - speed**2) / (2.0 * room)
    if gap < 5.0 or brake > 3.0:
        return "stop"
    if gap < 10.0 + 0.7 * now.speed or brake > 1.5:
        return "slow"
    return "keep"
