"""Things in a picture, in the build: judged by their average precision. It is not trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.table import Table

from build_engines.heads.average_precision import AveragePrecision, Precision
from build_engines.heads.kind import Draw, Floats, HeadBuild, Loss, Pairs
from build_engines.heads.prediction import Prediction
from build_engines.recipe import GateRecipe, TrainRecipe
from calibration.moments import LabelledSet, TrueObject
from calibration.samples import CalibrationSample
from edge_runtime.boxes import MOST_CONSIDERED, Picked, overlaps
from edge_runtime.errors import UserError
from edge_runtime.heads.detection import DetectionHead, size_of
from edge_runtime.heads.policy import DecisionPolicy, Inputs
from edge_runtime.messages import Detection, Frame
from edge_runtime.pixels import unfitted
from edge_runtime.specs import CameraStream

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 0.001
"""Candidates below this score are not judged: there are thousands, and none is believed."""
RIGHT = 0.5
"""Overlap from which something that is said counts as found."""
COLUMNS = ("AP50-95", "AP50", "precision", "recall")


class ClassScore(Struct, frozen=True):
    """One class."""

    ap: float
    ap50: float
    precision: float
    """Of what was said, the share that is there (overlap of at least 0.5)."""
    recall: float
    """Of what is there, the share that was said."""
    support: int
    """Things of this class in the pictures."""


class DetectionScores(Struct, frozen=True):
    """All scores of one run."""

    count: int
    """Pictures."""
    accuracy: float
    """Share of pictures in which everything that is there was said, and nothing else."""
    ap: float
    """AP50-95: the mean over the classes that occur."""
    ap50: float
    classes: dict[str, ClassScore]

    @property
    def figure(self) -> float:
        """AP50-95."""
        return self.ap

    @property
    def parts(self) -> dict[str, float]:
        """AP50-95 of each class that occurs."""
        return {name: score.ap for name, score in self.classes.items() if score.support}

    @property
    def support(self) -> dict[str, int]:
        return {name: score.support for name, score in self.classes.items()}

    @property
    def worst(self) -> str:
        parts = self.parts
        return min(parts, key=lambda name: parts[name])

    @property
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Class, and their mean, to its `COLUMNS`, as words."""
        rows: dict[str, tuple[str, ...]] = {
            name: (f"{score.ap:.3f}", f"{score.ap50:.3f}", f"{score.precision:.3f}", f"{score.recall:.3f}")
            for name, score in self.classes.items()
        }
        return rows | {"mean": (f"{self.ap:.3f}", f"{self.ap50:.3f}", "", "")}

    @property
    def summary(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "ap": self.ap, "ap50": self.ap50}

    def lost(self, after: DetectionScores, gate: GateRecipe) -> list[str]:
        """Both averages, and every class's own, may fall so far."""
        losses = []
        for name, before, now in (("AP50-95", self.ap, after.ap), ("AP50", self.ap50, after.ap50)):
            if not now >= gate.macro_f1_ratio * before:
                losses.append(f"{name} {before:.4f} -> {now:.4f}, below {gate.macro_f1_ratio:.0%} of FP32")
        for label, score in self.classes.items():
            for name, before, now in (
                ("AP50-95", score.ap, after.classes[label].ap),
                ("AP50", score.ap50, after.classes[label].ap50),
            ):
                if score.support and not before - now <= gate.class_drop:
                    losses.append(f"{label}: {name} {before:.4f} -> {now:.4f}, more than {gate.class_drop:.2f} down")
        return losses

    def below(self, gate: GateRecipe) -> str | None:
        if self.accuracy >= gate.accuracy and self.ap >= gate.ap:
            return None
        return f"AP50-95 {self.ap:.4f} (at least {gate.ap}), accuracy {self.accuracy:.4f} (at least {gate.accuracy})"


class DetectionPairs(Pairs):
    """What is in each picture beside what was found there."""

    def __init__(
        self,
        truth: Sequence[Sequence[TrueObject]],
        found: Sequence[Sequence[Detection]],
        said: Sequence[Sequence[Detection]],
        labels: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        """`found` is judged by average precision, `said` (at the policy's thresholds) by what of it is right."""
        known = set(labels)
        if unknown := sorted({thing.label for things in truth for thing in things} - known):
            raise UserError(
                f"the data names the class {unknown[0]!r}, which is no label ({', '.join(labels)}); "
                'rename it with dataset.values, or leave it out there with ""'
            )
        self.truth, self.labels, self.groups = truth, labels, groups
        self._precision = AveragePrecision(truth, found, labels)
        self._hits = [_hits(true, told) for true, told in zip(truth, said, strict=True)]
        self._drawn: tuple[Sequence[Draw], list[dict[str, Precision]]] | None = None

    @cached_property
    def scores(self) -> DetectionScores:  # type: ignore[override]
        precision = self._precision.of()
        classes = {}
        for label in self.labels:
            said = sum(hits.said.get(label, 0) for hits in self._hits)
            right = sum(hits.right.get(label, 0) for hits in self._hits)
            there = sum(hits.there.get(label, 0) for hits in self._hits)
            if said or there:
                own = precision.get(label, Precision(0.0, 0.0))
                classes[label] = ClassScore(
                    own.ap, own.ap50, right / said if said else 0.0, right / there if there else 0.0, there
                )
        ap, ap50 = _means(precision)
        return DetectionScores(len(self.truth), float(self.right().mean()), ap, ap50, classes)

    def bootstrap(self, draws: Sequence[Draw]) -> Floats:
        """AP50-95 over the classes that occur in each resample."""
        figures = []
        for draw, precision in zip(draws, self._resampled(draws), strict=True):
            there = self._precision.occurring(self.truth, draw)
            figures.append(_means({label: precision[label] for label in precision if label in there})[0])
        return np.array(figures)

    def right(self) -> NDArray[np.bool_]:
        return np.array([hits.all for hits in self._hits], bool)

    def part_bootstrap(self, draws: Sequence[Draw]) -> dict[str, Floats]:
        """AP50-95 of each class in each resample."""
        resampled = self._resampled(draws)
        return {label: np.array([precision[label].ap for precision in resampled]) for label in self._precision.labels}

    def constant(self) -> tuple[str, DetectionScores]:
        nothing: list[tuple[Detection, ...]] = [()] * len(self.truth)
        return "nothing", DetectionPairs(self.truth, nothing, nothing, self.labels, self.groups).scores

    def poor(self) -> str | None:
        if not self._precision.labels:
            return f"has nothing to find in {len(self.truth)} pictures: check the data's labels"
        if self.scores.ap50 > 0:
            return None
        return (
            f"finds nothing that is there (AP50 0 over {len(self.truth)} pictures): check the order of the labels, the "
            "colours and normalisation, and onnx.detection"
        )

    def _resampled(self, draws: Sequence[Draw]) -> list[dict[str, Precision]]:
        """Each class's precision in each resample; the same resamples are asked for twice."""
        if self._drawn is None or self._drawn[0] is not draws:
            self._drawn = (draws, [self._precision.of(draw) for draw in draws])
        return self._drawn[1]


class _Hits(Struct, frozen=True):
    """One picture: how many of each class are there, were said, and were said rightly."""

    there: Mapping[str, int]
    said: Mapping[str, int]
    right: Mapping[str, int]
    all: bool


def _hits(truth: Sequence[TrueObject], said: Sequence[Detection]) -> _Hits:
    """The surest takes, of what overlaps it enough and is not taken, what overlaps it most; what lies in a crowd of its
    kind is not counted."""
    there, told, right = dict[str, int](), dict[str, int](), dict[str, int]()
    for label in {thing.label for thing in truth} | {thing.label for thing in said}:
        things = [thing for thing in truth if thing.label == label and not thing.crowd]
        crowds = [thing for thing in truth if thing.label == label and thing.crowd]
        found = sorted((thing for thing in said if thing.label == label), key=lambda thing: -thing.score)
        alike = overlaps(_array(found), _array(things))
        taken: set[int] = set()
        counted = 0
        for row, thing in enumerate(found):
            fitting = [at for at in np.argsort(-alike[row], kind="stable") if alike[row, at] >= RIGHT]
            free = next((int(at) for at in fitting if int(at) not in taken), None)
            if free is not None:
                taken.add(free)
            elif any(_within(thing.box, crowd.box) >= RIGHT for crowd in crowds):
                continue
            counted += 1
        there[label], told[label], right[label] = len(things), counted, len(taken)
    return _Hits(there, told, right, there == right and told == right)


def _within(box: tuple[float, ...], crowd: tuple[float, ...]) -> float:
    """The share of `box` that lies in `crowd`."""
    width = min(box[2], crowd[2]) - max(box[0], crowd[0])
    height = min(box[3], crowd[3]) - max(box[1], crowd[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0.0, width) * max(0.0, height) / area if area > 0 else 0.0


def _array(things: Sequence[TrueObject] | Sequence[Detection]) -> NDArray[np.float64]:
    return np.array([thing.box for thing in things], np.float64).reshape(-1, 4)


def _means(precision: Mapping[str, Precision]) -> tuple[float, float]:
    if not precision:
        return 0.0, 0.0
    values = list(precision.values())
    return float(np.mean([one.ap for one in values])), float(np.mean([one.ap50 for one in values]))


class DetectionBuild(HeadBuild[DetectionHead]):
    """Pictures are judged together: a detection's worth depends on all others of its class."""

    figure = "AP50-95"
    part = "class"
    part_figure = "AP50-95"
    columns = COLUMNS
    judged = "pictures"
    layout = "detection"

    def outputs(self, head: DetectionHead) -> int:
        return 4 + len(head.labels)

    def truth(self, head: DetectionHead, name: str, moment: LabelledSet) -> NDArray[np.generic]:
        _not_trained()

    def loss(self, head: DetectionHead, counts: Floats, plan: TrainRecipe) -> Loss:
        _not_trained()

    def trained_scores(self, head: DetectionHead, output: Tensor, truth: Tensor) -> tuple[float, float]:
        _not_trained()

    def candidates(self, head: DetectionHead, output: NDArray[np.float32], inputs: Inputs) -> tuple[Detection, ...]:
        frame, spec = inputs.aligned.slices[head.camera].newest, inputs.streams[head.camera]
        if not isinstance(frame, Frame) or not isinstance(spec, CameraStream) or head.wrong(output[0]) is not None:
            return ()
        return _placed(head, head.candidates(DecisionPolicy(), output[0], FLOOR), spec, size_of(frame))

    def pairs(self, head: DetectionHead, predictions: Sequence[Prediction], model: bool = False) -> DetectionPairs:
        return DetectionPairs(
            [prediction.truth_objects for prediction in predictions],
            [prediction.candidates if model else prediction.objects for prediction in predictions],
            [prediction.objects for prediction in predictions],
            head.labels,
            [prediction.unit for prediction in predictions],
        )

    def output_pairs(
        self, head: DetectionHead, policy: DecisionPolicy, name: str, samples: Sequence[CalibrationSample],
        outputs: Sequence[NDArray[np.float32]],
    ) -> tuple[DetectionPairs, NDArray[np.float32]]:  # fmt: skip
        found: list[tuple[Detection, ...]] = []
        said: list[tuple[Detection, ...]] = []
        for sample, output in zip(samples, outputs, strict=True):
            shown = sample.shown.get(head.camera)
            if shown is None or head.wrong(output[0]) is not None:
                found.append(())
                said.append(())
                continue
            found.append(_placed(head, head.candidates(policy, output[0], FLOOR), *shown))
            said.append(_placed(head, head.candidates(policy, output[0]), *shown))
        truth = [sample.objects for sample in samples]
        pairs = DetectionPairs(truth, found, said, head.labels, [sample.group for sample in samples])
        return pairs, np.stack([output[0, :, 4:].max(axis=0) for output in outputs])

    def kept(self, head: DetectionHead, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """The candidates that can be picked at all: of thousands some dozens."""
        scores = output[0, :, 4:]
        surest = np.argsort(-scores, axis=None, kind="stable")[:MOST_CONSIDERED]
        rows = np.unique(surest[scores.ravel()[surest] >= FLOOR] // scores.shape[1])
        return np.ascontiguousarray(output[:, rows if rows.size else [0]])

    def is_right(self, head: DetectionHead, prediction: Prediction) -> bool:
        return _hits(prediction.truth_objects, prediction.objects).all

    def tables(
        self, head: DetectionHead, pairs: Pairs, predictions: Sequence[Prediction], title: str
    ) -> list[Table | str]:
        table = Table(title=title)
        for column in ("class", *COLUMNS, "things"):
            table.add_column(column, justify="left" if column == "class" else "right")
        scores = pairs.scores
        for name, cells in scores.rows.items():
            table.add_row(name, *cells, str(scores.support.get(name, sum(scores.support.values()))))
        return [table, f"pictures in which everything was said, and nothing else: {scores.accuracy:.3f}"]

    def figures(self, head: DetectionHead, predictions: Sequence[Prediction]) -> dict[str, float]:
        model = self.pairs(head, predictions, model=True).scores
        return {"ap": model.ap, "ap50": model.ap50}


def _placed(head: DetectionHead, picked: Picked, spec: CameraStream, size: tuple[int, int]) -> tuple[Detection, ...]:
    """In shares of the camera's picture, as the device says it."""
    boxes = unfitted(spec, size, picked.boxes).clip(0, 1)
    return tuple(
        Detection(head.labels[number], float(score), (left, top, right, bottom))
        for number, score, (left, top, right, bottom) in zip(
            picked.classes, picked.scores.clip(0, 1), boxes.tolist(), strict=True
        )
        if right > left and bottom > top
    )


def _not_trained() -> NoReturn:
    raise UserError("a detection head is not trained here; bring the detector as ONNX ([onnx], docs/detections.md)")
