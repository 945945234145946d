"""Run any mixture of variants of a model's stages over the same labelled moments, and no variant twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from build_engines.heads import build_of
from build_engines.heads.kind import HeadScores
from build_engines.quantisation.engines import run_each
from calibration.samples import CalibrationSample, stage_feeds
from edge_runtime.bundle import Manifest, Stage
from edge_runtime.infer.feed import stages_fed
from edge_runtime.messages import Tensors
from edge_runtime.tensors import zeros

REMEMBERED_BYTES = 1 << 14
"""Inputs up to this size are compared: one sentence lasts for many frames and need not be encoded for each."""
Advance = Callable[[], None]


@dataclass(frozen=True)
class Variant:
    """One graph of a stage: ONNX bytes and the precision it is meant for."""

    name: str
    model: bytes = field(repr=False)
    precision: str


@dataclass(frozen=True)
class Outcome:
    """What a mixture of variants made of the moments."""

    scores_of: Mapping[str, HeadScores]
    """Of every head by name; the first has an empty one."""
    logits: NDArray[np.float32]
    """The first head's, [moments, outputs]; of a tagging head [words of all moments, labels]."""

    @property
    def scores(self) -> HeadScores:
        """The first head's."""
        return self.scores_of[""]

    def error(self, reference: Outcome) -> float:
        """Mean over the moments of |logits - reference| / |reference| (2-norms)."""
        norms = np.maximum(np.linalg.norm(reference.logits, axis=1), 1e-9)
        return float(np.mean(np.linalg.norm(self.logits - reference.logits, axis=1) / norms))


class Bank:
    """The moments, and the outputs of every stage and variant that was asked for. One thread."""

    def __init__(
        self, manifest: Manifest, samples: Sequence[CalibrationSample], advance: Advance = lambda: None
    ) -> None:
        """`advance` is called after every stage that had to be run."""
        self._manifest = manifest
        self._samples = samples
        self._advance = advance
        self._outputs: dict[tuple[str, ...], list[Tensors]] = {}
        self._fed = [stages_fed(manifest.stages, sample.present) for sample in samples]
        """For each moment the stages that the device would run."""
        heads = [manifest.head, *(side.head for side in manifest.side_heads)]
        read = {name for stage in manifest.stages for name in stage.stages}
        self._last = {head.source: head for head in heads if head.source.name not in read}
        """What heads alone read: only what they are judged by is kept of it."""

    @property
    def fed(self) -> frozenset[str]:
        """The stages that any of the moments makes run."""
        return frozenset[str]().union(*self._fed)

    @property
    def figure(self) -> str:
        """What the first head's figure is called."""
        return build_of(self._manifest.head).figure

    def outcome(self, variants: Mapping[str, Variant]) -> Outcome:
        """The scores of the model alone with the given variant of every stage. Raises EngineError, BundleError."""
        keys: dict[str, tuple[str, ...]] = {}
        for stage in self._manifest.stages:
            key = (stage.name, variants[stage.name].name, *(part for name in stage.stages for part in keys[name]))
            keys[stage.name] = key
            if key not in self._outputs:
                inputs = {name: self._outputs[keys[name]] for name in stage.stages}
                self._outputs[key] = self._run(stage, variants[stage.name], inputs)
                self._advance()
        manifest = self._manifest
        heads = [("", manifest.head, manifest.decision)]
        heads += [(side.name, side.head, side.decision) for side in manifest.side_heads]
        scores: dict[str, HeadScores] = {}
        matrices: dict[str, NDArray[np.float32]] = {}
        for name, head, policy in heads:
            source = head.source
            raw = [np.asarray(out[source.field], np.float32) for out in self._outputs[keys[source.name]]]
            pairs, matrices[name] = build_of(head).output_pairs(head, policy, name, self._samples, raw)
            scores[name] = pairs.scores
        return Outcome(scores, matrices[""])

    def _run(self, stage: Stage, variant: Variant, before: Mapping[str, Sequence[Tensors]]) -> list[Tensors]:
        absent = {spec.name: zeros(spec) for spec in stage.outputs}
        feeds: list[Tensors] = []
        places: list[int | None] = []
        """Of each moment: which of `feeds` it is fed; None = it does not make the stage run."""
        remembered: dict[bytes, int] = {}
        for index, sample in enumerate(self._samples):
            if stage.name not in self._fed[index]:
                places.append(None)
                continue
            fed = stage_feeds(stage, sample, {name: values[index] for name, values in before.items()})
            place = len(feeds)
            if sum(value.nbytes for value in fed.values()) <= REMEMBERED_BYTES:
                mark = b"".join(np.ascontiguousarray(fed[name]).tobytes() for name in sorted(fed))
                place = remembered.setdefault(mark, place)
            places.append(place)
            if place == len(feeds):
                feeds.append(fed)
        outputs = [self._kept(stage, one) for one in run_each(stage, variant.precision, variant.model, feeds)]
        return [absent if place is None else outputs[place] for place in places]

    def _kept(self, stage: Stage, outputs: Tensors) -> Tensors:
        kept = dict(outputs)
        for source, head in self._last.items():
            if source.name == stage.name:
                kept[source.field] = build_of(head).kept(head, np.asarray(outputs[source.field], np.float32))
        return kept
