"""Shares and figures over recordings, each with its interval: recordings are what is drawn, for the moments of one are
not independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from build_engines.fleet.recordings import Source
from build_engines.fleet.tally import Counts, Look, total
from build_engines.heads.counts import LabelCounts
from build_engines.heads.intervals import FEWEST_GROUPS, Interval, interval, resamples
from build_engines.heads.kind import Floats
from build_engines.heads.metrics import Scores

DRAWS = 1000
SEED = 0
EVERYTHING = "everything"


class Cell(Struct, frozen=True):
    """One bundle under one condition. Intervals need three recordings; with fewer there are none."""

    recordings: int
    decisions: int
    safe: float
    """Share of safe decisions."""
    safe_interval: Interval | None
    labelled: int
    """Recordings with moments of which somebody has said what was right."""
    moments: int
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    figure: float | None = None
    """Macro-F1 of the decisions."""
    figure_interval: Interval | None = None


class Gap(Struct, frozen=True):
    """The second bundle less the first under one condition, paired by recording."""

    safe: Interval | None
    accuracy: Interval | None
    figure: Interval | None


@dataclass(frozen=True)
class Column:
    """What one bundle made of the recordings that a condition concerns, in the order of their ids."""

    ids: tuple[str, ...]
    decisions: NDArray[np.int64]
    safe: NDArray[np.int64]
    """[ids]: safe decisions of each."""
    labelled: tuple[str, ...]
    judged: LabelCounts
    """Of `labelled`."""
    labels: tuple[str, ...]

    @property
    def scores(self) -> Scores | None:
        """None where nothing is labelled."""
        return self.judged.scores(self.labels) if self.labelled else None

    @property
    def safe_share(self) -> float:
        return float(self.safe.sum() / max(1, self.decisions.sum()))

    def safe_shares(self) -> Floats | None:
        """Of each draw; None where there are too few recordings."""
        if (draws := _draws(self.ids)) is None:
            return None
        return np.array([self.safe[draw].sum() / max(1, self.decisions[draw].sum()) for draw in draws])

    def figures(self) -> Floats | None:
        draws = _draws(self.labelled)
        return None if draws is None else self.judged.bootstrap(draws)

    def accuracies(self) -> Floats | None:
        draws = _draws(self.labelled)
        return None if draws is None else self.judged.accuracies(draws)

    def cell(self) -> Cell:
        scores = self.scores
        about = (len(self.ids), int(self.decisions.sum()), round(self.safe_share, 6))
        safe = _interval(self.safe_share, self.safe_shares())
        if scores is None:
            return Cell(*about, safe, 0, 0)
        return Cell(
            *about, safe, len(self.labelled), scores.count, scores.accuracy,
            _interval(scores.accuracy, self.accuracies()), scores.figure, _interval(scores.figure, self.figures()),
        )  # fmt: skip


def column(
    looks: Mapping[str, Look], sources: Mapping[str, Source], bundle: int, labels: Sequence[str],
    condition: str | None = None, model: bool = False,
) -> Column:  # fmt: skip
    """Of the bundle number `bundle`. `condition`: what labels call so, and where they call it nothing, the folder that
    recordings lie in (None: all). `model`: the model's own answers instead of the decisions."""
    ids = [name for name in sorted(looks) if condition in (None, sources[name].condition)]
    tallies = [looks[name].tallies[bundle] for name in ids]
    confusions = {}
    for name in sorted(looks):
        tally = looks[name].tallies[bundle]
        parts = by_condition(tally.model if model else tally.decided, sources[name])
        chosen = [table for key, table in parts.items() if condition in (None, key)]
        if chosen:
            confusions[name] = total(map(_Confusion, chosen)).table
    return Column(
        tuple(ids), np.array([tally.decisions for tally in tallies], np.int64),
        np.array([sum(tally.safe.values()) for tally in tallies], np.int64),
        tuple(confusions), LabelCounts(list(confusions.values())), tuple(labels),
    )  # fmt: skip


def conditions(looks: Mapping[str, Look], sources: Mapping[str, Source]) -> list[str]:
    """All that have a name."""
    named = {sources[name].condition for name in looks}
    for name, look in looks.items():
        named.update(*(by_condition(tally.decided, sources[name]) for tally in look.tallies))
    return sorted(named - {""})


def by_condition(table: Mapping[str, dict[str, Counts]], source: Source) -> dict[str, dict[str, Counts]]:
    """Where labels name no condition, it is the recording's folder."""
    parts: dict[str, dict[str, Counts]] = {}
    for name, confusion in table.items():
        key = name or source.condition
        parts[key] = total([_Confusion(parts[key]), _Confusion(confusion)]).table if key in parts else confusion
    return parts


class _Confusion(Struct, frozen=True):
    table: dict[str, Counts]


def gap(first: Column, second: Column) -> Gap:
    """Of two bundles on the same recordings."""

    def apart(one: float, other: float, drawn: Floats | None, others: Floats | None) -> Interval | None:
        return None if drawn is None or others is None else interval(other - one, others - drawn)

    safe = apart(first.safe_share, second.safe_share, first.safe_shares(), second.safe_shares())
    before, after = first.scores, second.scores
    if before is None or after is None:
        return Gap(safe, None, None)
    return Gap(
        safe, apart(before.accuracy, after.accuracy, first.accuracies(), second.accuracies()),
        apart(before.figure, after.figure, first.figures(), second.figures()),
    )  # fmt: skip


def _draws(ids: Sequence[str]) -> list[NDArray[np.int64]] | None:
    return resamples(ids, DRAWS, SEED) if len(ids) >= FEWEST_GROUPS else None


def _interval(value: float, drawn: Floats | None) -> Interval | None:
    return None if drawn is None else interval(value, drawn)
