"""Groups of moments to folds, each of which is left out once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def grouped(strata: NDArray[np.generic], groups: Sequence[str], count: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Rows to train on and rows left out, both in order, of at most `count` folds that tear no group apart.

    `strata` [N]: each fold has about the whole's share of each. `groups` [N]. Empty where there are fewer than two
    groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(count, len(set(groups)))
    if count < 2:
        return []
    _, numbers = np.unique(strata, return_inverse=True)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(np.sort(fit), np.sort(left)) for fit, left in splitter.split(numbers, numbers, np.asarray(groups))]
