"""From counts by group come the same scores, and the same draws of the bootstrap, as from the single moments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from build_engines.heads.counts import LabelCounts
from build_engines.heads.intervals import bootstrap, resamples
from build_engines.heads.labelled import LabelPairs

LABELS = ("a", "b", "c")
PAIRS = st.lists(
    st.tuples(st.sampled_from(["g1", "g2", "g3", "g4"]), st.sampled_from("abc"), st.sampled_from("abcd")),
    min_size=1, max_size=60,
)  # fmt: skip


@given(PAIRS, st.integers(0, 9))
def test_counts_are_as_good_as_moments(pairs: list[tuple[str, str, str]], seed: int) -> None:
    pairs = sorted(pairs, key=lambda pair: pair[0])
    groups, truth, said = ([pair[side] for pair in pairs] for side in range(3))
    names = list(dict.fromkeys(groups))
    tables: dict[str, dict[str, dict[str, int]]] = {name: {} for name in names}
    for group, right, answer in pairs:
        row = tables[group].setdefault(right, {})
        row[answer] = row.get(answer, 0) + 1
    counts = LabelCounts([tables[name] for name in names])
    moments = LabelPairs(truth, said, LABELS, groups)
    assert counts.count == len(pairs)
    assert counts.scores(LABELS) == moments.scores
    if len(names) < 3:
        return
    drawn, of_moments = resamples(names, 20, seed), resamples(groups, 20, seed)
    assert counts.bootstrap(drawn).tolist() == bootstrap(truth, said, of_moments).tolist()
    right = moments.right().astype(float)
    assert np.allclose(counts.accuracies(drawn), [right[draw].mean() for draw in of_moments], atol=1e-12)
