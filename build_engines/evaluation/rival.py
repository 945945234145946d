"""Is one better than the other? McNemar's test on the same moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from build_engines.heads import build_of
from build_engines.heads.intervals import Interval, interval, resamples
from build_engines.heads.prediction import Prediction
from edge_runtime.errors import UserError
from edge_runtime.heads import Head


class Rivalry(Struct, frozen=True):
    """This bundle beside another, on the same moments."""

    name: str
    count: int
    only_this_right: int
    only_rival_right: int
    p_value: float
    """Exact, two-sided (McNemar 1947): the chance of such a split if both were equally good."""
    accuracy: float
    """The rival's."""
    figure: float
    """The rival's."""
    difference: Interval
    """In the figure, this minus rival, paired."""
    figure_name: str = "macro-F1"

    @property
    def words(self) -> str:
        """The result as a sentence."""
        if self.difference.low > 0:
            return f"better than {self.name}: the interval of the difference lies above 0"
        if self.difference.high < 0:
            return f"worse than {self.name}: the interval of the difference lies below 0"
        return f"not proven better or worse than {self.name}: the interval of the difference holds 0"


def mcnemar(this_right: Sequence[bool], rival_right: Sequence[bool]) -> tuple[int, int, float]:
    """How often only this one was right, how often only the rival was, and the exact binomial p-value."""
    from scipy.stats import binomtest

    this, other = np.asarray(this_right, bool), np.asarray(rival_right, bool)
    ours, theirs = int((this & ~other).sum()), int((other & ~this).sum())
    return ours, theirs, float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0


def against(
    name: str, head: Head, this: Sequence[Prediction], rival: Sequence[Prediction], draws: int, seed: int
) -> Rivalry:
    """Compare the decisions of two runs, matched by id. Raises UserError where the rival lacks a moment."""
    by_id = {prediction.id: prediction for prediction in rival}
    if missing := [prediction.id for prediction in this if prediction.id not in by_id]:
        raise UserError(f"--rival {name}: lacks {len(missing)} of the moments, e.g. {missing[0]!r}; use the same split")
    build, others = build_of(head), [by_id[prediction.id] for prediction in this]
    own, theirs = build.pairs(head, this), build.pairs(head, others)
    # The test wants independent cases: a sentence is right where all its words are.
    ours_only, theirs_only, p_value = mcnemar(
        *([build.is_right(head, prediction) for prediction in run] for run in (this, others))
    )
    drawn = resamples(own.groups, draws, seed)
    apart = interval(own.scores.figure - theirs.scores.figure, own.bootstrap(drawn) - theirs.bootstrap(drawn))
    return Rivalry(
        name, own.scores.count, ours_only, theirs_only, p_value, theirs.scores.accuracy, theirs.scores.figure, apart,
        build.figure,
    )  # fmt: skip


def read_predictions(path: Path) -> list[Prediction]:
    """The decisions in a file that `evaluate --predictions` wrote. Raises UserError."""
    try:
        return msgspec.json.Decoder(Prediction).decode_lines(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"--rival {path}: cannot be read ({error.strerror}); give a bundle or a predictions file"
        ) from None
    except msgspec.DecodeError as error:
        raise UserError(f"--rival {path}: is no file of predictions ({error})") from None
