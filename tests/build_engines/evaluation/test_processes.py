"""Evaluating and degrading by several processes: what one process says, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from build_engines.evaluation.degrade import degrade
from build_engines.evaluation.evaluate import Evaluation, evaluate
from calibration import spread
from calibration.moments import LabelledSet, RawMessage
from calibration.select import read_signed
from calibration.spread import WORKERS
from edge_runtime.bundle import open_bundle
from edge_runtime.pipeline import Pipeline
from tests import tiny

MS = 1_000_000
COUNT = 28


def read() -> Iterator[LabelledSet]:
    """Groups of one to seven moments, in which the picture is older than the moment or not there, and readings are
    refused."""
    for index in range(COUNT):
        group, at = index // 7, 10_000_000_000 + index * 40 * MS
        shade = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 240 if index % 3 else 20, np.uint8)
        messages = [RawMessage("sensors", at, {"a": float(index % 12), "b": 1.0 if index % 5 else 99.0})]
        if index % 4:
            messages.append(RawMessage("camera", at, shade))
        yield LabelledSet(f"m{index}", f"g{group}", at, tiny.LABELS[index % 4], tuple(messages))


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(spread, "ALONE", 8)
    made = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "t"), allow_unsigned=True))
    yield made
    made.close()


def _plain(found: Evaluation) -> object:
    outputs = [None if output is None else output.tolist() for output in found.outputs]
    return found.predictions, found.refused, outputs, {name: len(times) for name, times in found.timings.items()}


def test_evaluation(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in ("1", "2"):
        monkeypatch.setenv(WORKERS, count)
        found.append(evaluate(pipeline, read(), drop=("text",), blocking=False))
    alone, spread_out = found
    assert _plain(alone) == _plain(spread_out)
    assert alone.scores == spread_out.scores and len(alone.predictions) == COUNT
    assert alone.refused, "some readings are out of range, or the test shows less than it means to"


def test_degradation(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, "1")
    alone = degrade(pipeline, read)
    monkeypatch.setenv(WORKERS, "2")
    assert degrade(pipeline, read) == alone


def test_moments_as_the_stages_see_them(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in ("1", "2"):
        monkeypatch.setenv(WORKERS, count)
        signatures, store = read_signed(pipeline.bundle, read(), tmp_path)
        samples = store.take(range(COUNT))
        tensors = [{str(source): value.tolist() for source, value in one.tensors.items()} for one in samples]
        found.append((signatures, tensors))
    assert found[0] == found[1]
    assert [signature.index for signature in found[0][0]] == list(range(COUNT))
