"""McNemar's test on tables whose answer is known, and runs matched by id."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from build_engines.evaluation.rival import against, mcnemar, read_predictions
from build_engines.heads.prediction import Prediction
from edge_runtime.errors import UserError
from edge_runtime.heads.softmax import SoftmaxHead

HEAD = SoftmaxHead(("a", "b"), "stage:x:y")


def test_mcnemar_equals_the_binomial_worked_out_by_hand() -> None:
    # 1 against 5 discordant: two-sided p = 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    this = [True] * 1 + [False] * 5 + [True] * 10
    rival = [False] * 1 + [True] * 5 + [True] * 10
    assert mcnemar(this, rival) == (1, 5, pytest.approx(14 / 64))


def test_runs_that_never_differ_are_no_evidence() -> None:
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)


def _run(labels: str, truth: str) -> list[Prediction]:
    return [
        Prediction(str(i), t, a, 0.9, "model", None, {a: 0.9})
        for i, (a, t) in enumerate(zip(labels, truth, strict=True))
        for i, (a, t) in enumerate(zip(labels, truth, strict=True))
    ]


def test_better_and_worse_are_said_only_where_the_interval_excludes_zero() -> None:
    truth = "ab" * 40
    good, bad = _run(truth, truth), _run("aa" * 40, truth)
    found = against("bad", HEAD, good, list(reversed(bad)), 200, 0)
    assert found.difference.low > 0 and found.words.startswith("better than bad")
    assert against("good", HEAD, bad, good, 200, 0).words.startswith("worse than good")
    same = against("itself", HEAD, good, good, 200, 0)
    assert same.words.startswith("not proven") and same.p_value == 1.0


def test_a_rival_of_another_split_or_no_file_of_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use the same split"):
        against("x", HEAD, _run("ab", "ab"), _run("a", "a"), 10, 0)
    file = tmp_path / "p.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in _run("ab", "ab")))
    assert read_predictions(file) == _run("ab", "ab")
    file.write_text("no\n")
    with pytest.raises(UserError, match="is no file of predictions"):
        read_predictions(file)
