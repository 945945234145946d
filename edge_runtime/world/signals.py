"""Traffic lights: at each junction one arm at a time has green, so ways never cross.

They are actuated as real ones are: an arm where somebody waits is served next, the player's car before others (so its
red lasts about 8 s at most), and nobody gets green before the junction is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal

import numpy as np

Light = Literal["green", "amber", "red"]

GREEN_S = 4.5
"""Shortest green."""
IDLE_GREEN_S = 8.0
"""Green lasts this long where nobody waits on another arm."""
AMBER_S = 2.0
CLEAR_S = 0.8
"""Shortest time in which every arm is red."""


class _Junction:
    __slots__ = ("arm", "phase", "since")

    def __init__(self, arm: int, since: float) -> None:
        self.arm, self.phase, self.since = arm, "green", since


class Signals:
    """The state of all lights. `arms` is the number of arms by junction."""

    def __init__(self, arms: tuple[int, ...], rng: np.random.Generator) -> None:
        self._arms = arms
        self._rng = rng
        self._junctions = [
            _Junction(int(rng.integers(count)), -float(rng.uniform(0.0, IDLE_GREEN_S))) for count in arms
        ]

    def light(self, junction: int, arm: int) -> Light:
        """What the cars of this arm see."""
        state = self._junctions[junction]
        if state.arm != arm or state.phase == "clear":
            return "red"
        return "green" if state.phase == "green" else "amber"

    def update(
        self,
        t: float,
        waiting: Mapping[int, Mapping[int, float]],
        occupied: Set[int],
        player: tuple[int, int] | None,
    ) -> None:
        """Advance to time `t` (s).

        `waiting` gives, by junction and arm, since when somebody is near the stop line; `occupied` the junctions with
        a car inside; `player` the (junction, arm) that the player's car waits at.
        """
        for index, state in enumerate(self._junctions):
            age = t - state.since
            others = {arm: since for arm, since in waiting.get(index, {}).items() if arm != state.arm}
            if state.phase == "green":
                if age >= (GREEN_S if others else IDLE_GREEN_S):
                    state.phase, state.since = "amber", t
            elif state.phase == "amber":
                if age >= AMBER_S:
                    state.phase, state.since = "clear", t
            elif age >= CLEAR_S and index not in occupied:
                state.arm = self._following(index, state.arm, others, player)
                state.phase, state.since = "green", t

    def _following(self, junction: int, arm: int, others: Mapping[int, float], player: tuple[int, int] | None) -> int:
        if player is not None and player[0] == junction and player[1] in others:
            return player[1]
        if others:
            return min(others, key=lambda other: (others[other], other))
        return (arm + 1 + int(self._rng.integers(self._arms[junction] - 1))) % self._arms[junction]
