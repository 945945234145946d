"""Is one better than the other? McNemar's test on the same moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from build_engines.evaluation import tagging
from build_engines.evaluation.evaluate import Prediction
from build_engines.evaluation.intervals import Interval, bootstrap, interval, resamples
from edge_runtime.errors import UserError


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
    f1_macro: float
    difference: Interval
    """In macro-F1, this minus rival, paired."""

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


def against(name: str, this: Sequence[Prediction], rival: Sequence[Prediction], draws: int, seed: int) -> Rivalry:
    """Compare the decisions of two runs, matched by id. Raises UserError where the rival lacks a moment."""
    by_id = {one.id: one for one in rival}
    if missing := [one.id for one in this if one.id not in by_id]:
        raise UserError(f"--rival {name}: lacks {len(missing)} of the moments, e.g. {missing[0]!r}; use the same split")
    others = [by_id[one.id] for one in this]
    if tagging.is_tagging(this):
        (truth, said), (_, other) = tagging.judged_pairs(this), tagging.judged_pairs(others)
    else:
        truth = [one.truth for one in this]
        said, other = [one.label for one in this], [one.label for one in others]
    # The test wants independent cases: a sentence is right where all its words are.
    ours, theirs, p_value = mcnemar([is_right(one) for one in this], [is_right(one) for one in others])
    from build_engines.evaluation.metrics import score

    labels = sorted({*truth, *said, *other})
    rivals, own = score(truth, other, labels), score(truth, said, labels)
    drawn = resamples(tagging.judged_groups(this), draws, seed)
    apart = bootstrap(truth, said, drawn) - bootstrap(truth, other, drawn)
    return Rivalry(
        name, len(truth), ours, theirs, p_value, rivals.accuracy, rivals.f1_macro,
        interval(own.f1_macro - rivals.f1_macro, apart),
    )  # fmt: skip


def is_right(one: Prediction) -> bool:
    """Whether a decision is right: its label, or every tag of its sentence."""
    if one.head == "tagging":
        return tagging.fitted(one.tags, len(one.truth_tags)) == one.truth_tags
    return one.label == one.truth


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
