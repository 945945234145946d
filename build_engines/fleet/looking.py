"""The task of `evaluate` and `compare`: a recording decided again by one bundle, or by two."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from build_engines.artefacts import key_of
from build_engines.code import code_digest
from build_engines.data.recordings import is_labelled, moments
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.fleet.tally import Counting, Counts, Look, Tally, count
from build_engines.heads import build_of
from build_engines.heads.labelled import OneLabelBuild
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe
from edge_runtime.bundle import Bundle
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.records import Session
from edge_runtime.replay import recorded_answer, replay


@dataclass(frozen=True)
class Looking:
    """Every recorded decision is made again, by each bundle, from what was recorded; where somebody has said what was
    right, the labelled moments are judged as `build-engines evaluate` judges them."""

    bundles: tuple[Bundle, ...]
    dataset: DatasetRecipe = PLAIN_DATASET
    code: str = ""
    """Digest of what computes."""

    @classmethod
    def of(cls, bundles: tuple[Bundle, ...], dataset: DatasetRecipe = PLAIN_DATASET) -> Looking:
        """By the code that is installed."""
        return cls(bundles, dataset, code_digest(("build_engines.fleet.looking",)))

    @property
    def key(self) -> str:
        digests = {str(number): bundle.digest for number, bundle in enumerate(self.bundles)}
        return key_of(["look", self.dataset, self.code], digests)

    def open(self) -> Callable[[Path], Look]:
        pipelines = [Pipelines(bundle) for bundle in self.bundles]
        return lambda path: _look(path, pipelines, self.dataset)


class Pipelines:
    """A bundle's pipelines, kept from one recording to the next: by the zones of their cameras. One thread."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._open: dict[bytes, Pipeline] = {}

    def of(self, session: Session) -> Pipeline:
        """On ONNX Runtime, wherever it was recorded."""
        key = msgspec.json.encode(session.zones, order="deterministic")
        if key not in self._open:
            self._open[key] = Pipeline(self._bundle, zones=session.zones)
        return self._open[key]

    def settle(self) -> None:
        """After a recording: engines that failed in it are not the next one's."""
        for key, pipeline in list(self._open.items()):
            if pipeline.down is not None or pipeline.engine_restarts:
                self._open.pop(key).close()


def _look(path: Path, pipelines: list[Pipelines], dataset: DatasetRecipe) -> Look:
    recording = Recording(path)
    labelled = is_labelled(path, dataset)
    tallies, said = [], []
    for one in pipelines:
        counting, labels = Counting(), []
        with closing(replay(recording, one.of, close=False)) as pairs:
            for live, now in pairs:
                counting.add(recorded_answer(live), now)
                labels.append(now.label)
        said.append(labels)
        one.settle()
        tallies.append(_judged(path, one.of(recording.session), counting, dataset if labelled else None))
        one.settle()
    apart: Counts = {}
    for one_label, other in zip(said[0], said[-1], strict=True):
        if one_label != other:
            count(apart, f"{one_label} -> {other}")
    return Look(tuple(tallies), int(recording.cut), int(not labelled), apart)


def _judged(path: Path, pipeline: Pipeline, counting: Counting, dataset: DatasetRecipe | None) -> Tally:
    """`dataset`: None where nothing is labelled."""
    if dataset is None or not isinstance(build_of(pipeline.bundle.manifest.head), OneLabelBuild):
        return counting.tally({}, {}, {})
    found = evaluate(pipeline, moments(path, pipeline.streams, dataset))
    return counting.tally(found.refused, confusions(found, model=False), confusions(found, model=True))


def confusions(found: Evaluation, model: bool) -> dict[str, dict[str, Counts]]:
    """Condition to the right label to what was decided; `model`: to the model's own answers."""
    build = found.build
    assert isinstance(build, OneLabelBuild)
    table: dict[str, dict[str, Counts]] = {}
    for prediction in found.predictions:
        said = build.own_label(found.head, prediction) if model else prediction.label
        counts = table.setdefault(prediction.condition, {}).setdefault(prediction.truth, {})
        count(counts, said)
    return table
