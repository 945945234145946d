"""Day, dusk and fog by turns."""

from __future__ import annotations

import numpy as np

from edge_runtime.world.expert import CONDITIONS, Condition


def weather(rng: np.random.Generator) -> list[tuple[float, Condition]]:
    """(start in s, condition): a change every 15 to 25 s, for an hour."""
    rows: list[tuple[float, Condition]] = []
    t, last = 0.0, -1
    while t < 3600.0:
        last = (last + 1 + int(rng.integers(2))) % 3 if last >= 0 else int(rng.integers(3))
        rows.append((t, CONDITIONS[last]))
        t += float(rng.uniform(15.0, 25.0))
    return rows
