"""How often each label was said where each was right, group by group: what scores and their intervals can be taken from
without the single moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from build_engines.heads.intervals import macro_f1
from build_engines.heads.kind import Draw, Floats
from build_engines.heads.metrics import Scores, score

Confusion = Mapping[str, Mapping[str, int]]
"""Right label to what was said to how often."""


class LabelCounts:
    """The confusions of several groups (recordings, say), in their order. Immutable; any thread."""

    def __init__(self, groups: Sequence[Confusion]) -> None:
        names = sorted({name for group in groups for truth, said in group.items() for name in (truth, *said)})
        places = {name: place for place, name in enumerate(names)}
        self._names = names
        self._table: NDArray[np.int64] = np.zeros((len(groups), len(names), len(names)), np.int64)
        for number, group in enumerate(groups):
            for truth, said in group.items():
                for answer, count in said.items():
                    self._table[number, places[truth], places[answer]] = count

    @property
    def count(self) -> int:
        """Answers that were judged."""
        return int(self._table.sum())

    def scores(self, labels: Sequence[str]) -> Scores:
        """Of all groups together; `labels` gives the order."""
        whole = self._table.sum(axis=0)
        pairs = [(row, column) for row, column in np.argwhere(whole > 0).tolist()]
        truth, said = ([self._names[pair[side]] for pair in pairs] for side in (0, 1))
        return score(truth, said, labels, [int(whole[row, column]) for row, column in pairs])

    def bootstrap(self, draws: Sequence[Draw]) -> Floats:
        """[draws] macro-F1 of each draw of groups: what `intervals.bootstrap` gives for their moments."""
        right = np.diagonal(self._table, axis1=1, axis2=2)
        count = self._table.sum(axis=1) + self._table.sum(axis=2)
        return np.array([macro_f1(right[draw].sum(axis=0), count[draw].sum(axis=0)) for draw in draws])

    def accuracies(self, draws: Sequence[Draw]) -> Floats:
        """[draws] share of right answers in each draw of groups."""
        right = np.diagonal(self._table, axis1=1, axis2=2).sum(axis=1)
        count = self._table.sum(axis=(1, 2))
        return np.array([right[draw].sum() / max(1, count[draw].sum()) for draw in draws])
