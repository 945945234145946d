"""How long to wait before something that is away is tried again."""

from __future__ import annotations

import random


class Pauses:
    """Pauses between attempts: each up to twice as long as the one before, and at random between half of that and all
    of it, so that several that went away together do not come back in lockstep. One thread at a time.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s

    @property
    def untried(self) -> bool:
        """Whether there was none since the beginning, or the last success."""
        return self._next_s == self._first_s

    def next_s(self) -> float:
        """The next one, seconds."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._longest_s)
        return pause_s

    def succeeded(self) -> None:
        """They begin anew."""
        self._next_s = self._first_s
