"""A detector's outputs, whatever their form, as a detection head reads them: by operators inside the graph.

What comes out is [1, N, 4 + labels]: left, top, right and bottom in shares of the model's picture, and the scores. Only
operators that every TensorRT reads; suppression is the device's (`edge_runtime.boxes.pick`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.graphs import tensor_types
from build_engines.recipe.detection import DetectionRecipe
from build_engines.recipe.toml import toml
from edge_runtime.errors import UserError

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8,), (16,), (32,), (4,))
"""What is tried where a recipe says nothing, in this order."""
Shapes = Mapping[str, tuple[int, ...]]


class _Tail:
    """Nodes behind the graph's outputs."""

    def __init__(self, model: ModelProto, name: str) -> None:
        self._graph, self._name, self._count = model.graph, name, 0

    def constant(self, value: NDArray[Any]) -> str:
        self._count += 1
        name = f"{self._name}/constant_{self._count}"
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def floats(self, *values: float) -> str:
        return self.constant(np.array(values, np.float32))

    def add(self, operator: str, *inputs: str, made: str = "", to_type: int | None = None, **attributes: Any) -> str:
        self._count += 1
        made = made or f"{self._name}/{operator}_{self._count}"
        attributes |= {} if to_type is None else {"to": to_type}
        self._graph.node.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def columns(self, tensor: str, start: int, end: int) -> str:
        """Of the last axis."""
        return self.add("Slice", tensor, *(self.constant(np.array([at], np.int64)) for at in (start, end, -1)))

    def shaped(self, tensor: str, *shape: int) -> str:
        return self.add("Reshape", tensor, self.constant(np.array(shape, np.int64)))


def assemble(
    model: ModelProto,
    name: str,
    recipe: DetectionRecipe,
    labels: int,
    size: tuple[int, int],
    shapes: Shapes,
    where: str,
) -> None:
    """Make the output `name` of the recipe's outputs, in place; it is the only one then. `size`: width and height of
    the model's picture. `shapes`: of the graph's outputs. Raises UserError for shapes that are none of the form.
    """
    tail, types = _Tail(model, name), tensor_types(model)
    read = {
        output: output if types[output] == TensorProto.FLOAT else tail.add("Cast", output, to_type=TensorProto.FLOAT)
        for output in recipe.outputs
    }
    boxes, scores = _FORMS[recipe.form](_Job(tail, recipe, labels, size, read, shapes, where))
    tail.add("Concat", boxes, scores, made=name, axis=-1)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


@dataclass(frozen=True)
class _Job:
    tail: _Tail
    recipe: DetectionRecipe
    labels: int
    size: tuple[int, int]
    read: Mapping[str, str]
    """An output of the graph to the tensor that holds it as float32."""
    shapes: Shapes
    where: str

    def refused(self, output: str, expected: str) -> UserError:
        return UserError(
            f"{self.where}: output {output!r} is {list(self.shapes[output])}; form = {self.recipe.form!r} with "
            f"{self.labels} labels wants {expected}; check the labels and onnx.detection"
        )

    def tensor(self, output: str, last: int, expected: str) -> tuple[str, int]:
        """The output as [1, N, last], and N. Raises UserError where it is not so."""
        *others, columns = self.shapes[output]
        if columns != last or max(others, default=0) != int(np.prod(others)):
            raise self.refused(output, expected)
        return self.tail.shaped(self.read[output], 1, max(others), last), max(others)

    def activated(self, scores: str, unless_told: str = "none") -> str:
        kind = self.recipe.activation or unless_told
        if kind == "none":
            return scores
        return self.tail.add("Sigmoid", scores) if kind == "sigmoid" else self.tail.add("Softmax", scores, axis=-1)

    def corners(self, boxes: str, sides: str, units: str) -> str:
        """[1, N, 4] as left, top, right, bottom in shares; `sides` and `units`: what they are unless told."""
        tail = self.tail
        if (self.recipe.sides or sides) == "centre":
            middle = tail.columns(boxes, 0, 2)
            half = tail.add("Mul", tail.columns(boxes, 2, 4), tail.floats(0.5))
            boxes = tail.add("Concat", tail.add("Sub", middle, half), tail.add("Add", middle, half), axis=-1)
        return self.shares(boxes) if (self.recipe.units or units) == "pixels" else boxes

    def shares(self, boxes: str) -> str:
        width, height = self.size
        return self.tail.add("Mul", boxes, self.tail.floats(1 / width, 1 / height, 1 / width, 1 / height))


def _yolo(job: _Job) -> tuple[str, str]:
    """You Only Look Once: https://arxiv.org/abs/1506.02640 and what came after it; decoded in the graph."""
    (output,) = job.recipe.scores
    tail, shape, wide = job.tail, job.shapes[output], (4 + job.labels, 5 + job.labels)
    expected = f"[1, {wide[0]}, N], [1, N, {wide[0]}] or [1, N, {wide[1]}]"
    if len(shape) < 2 or int(np.prod(shape)) != shape[-1] * shape[-2]:
        raise job.refused(output, expected)
    rows, columns = shape[-2:]
    found = tail.shaped(job.read[output], 1, rows, columns)
    if rows in wide and columns not in wide:
        found, rows, columns = tail.add("Transpose", found, perm=[0, 2, 1]), columns, rows
    if columns not in wide:
        raise job.refused(output, expected)
    scores = job.activated(tail.columns(found, columns - job.labels, columns))
    if columns == wide[1]:
        scores = tail.add("Mul", scores, job.activated(tail.columns(found, 4, 5)))
    return job.corners(tail.columns(found, 0, 4), "centre", "pixels"), scores


def _detr(job: _Job) -> tuple[str, str]:
    """Detection transformers: https://arxiv.org/abs/2005.12872; those without a class for nothing give sigmoids."""
    (output,), (places,) = job.recipe.scores, job.recipe.boxes
    for_nothing = job.shapes[output][-1] == job.labels + 1
    wanted = f"[1, N, {job.labels}], or one more for nothing"
    scores, _ = job.tensor(output, job.labels + for_nothing, wanted)
    scores = job.activated(scores, "softmax" if for_nothing else "sigmoid")
    boxes, _ = job.tensor(places, 4, "boxes [1, N, 4]")
    return job.corners(boxes, "centre", "shares"), job.tail.columns(scores, 0, job.labels)


def _nanodet(job: _Job) -> tuple[str, str]:
    """Distances from a cell to the four sides, each a distribution over bins (generalised focal loss:
    https://arxiv.org/abs/2006.04388): their mean, in strides."""
    tail, recipe, labels = job.tail, job.recipe, job.labels
    scores, boxes = [], []
    if recipe.boxes:
        pairs = list(zip(recipe.scores, recipe.boxes, strict=True))
        counts = [int(np.prod(job.shapes[output])) // labels for output, _ in pairs]
        bins = job.shapes[pairs[0][1]][-1] // 4
        for output, places in pairs:
            scores.append(job.tensor(output, labels, f"[1, cells, {labels}]")[0])
            boxes.append(job.tensor(places, 4 * bins, "distances [1, cells, 4 * bins]")[0])
    else:
        (output,) = recipe.scores
        last = job.shapes[output][-1]
        bins = (last - labels) // 4
        if bins < 2 or (last - labels) % 4:
            raise job.refused(output, f"[1, cells, {labels} + 4 * bins]")
        both, rows = job.tensor(output, last, f"[1, cells, {labels} + 4 * bins]")
        scores, boxes, counts = [tail.columns(both, 0, labels)], [tail.columns(both, labels, last)], [rows]
    strides = _strides(job, counts)
    total = sum(counts)
    spread = boxes[0] if len(boxes) == 1 else tail.add("Concat", *boxes, axis=1)
    chances = tail.add("Softmax", tail.shaped(spread, 1, total, 4, bins), axis=-1)
    weighed = tail.add("Mul", chances, tail.constant(np.arange(bins, dtype=np.float32)))
    means = tail.add("ReduceSum", weighed, tail.constant(np.array([-1], np.int64)), keepdims=0)
    centres, steps = _cells(job.size, strides, recipe.offset)
    # Left and top go back from the cell, right and bottom on.
    signs = np.array([-1, -1, 1, 1], np.float32)
    moved = tail.add("Mul", means, tail.constant((steps[:, None] * signs)[None].astype(np.float32)))
    corners = tail.add("Add", moved, tail.constant(np.tile(centres, (1, 2))[None].astype(np.float32)))
    every = scores[0] if len(scores) == 1 else tail.add("Concat", *scores, axis=1)
    return job.shares(corners), job.activated(every)


def _strides(job: _Job, counts: Sequence[int]) -> tuple[int, ...]:
    """Those of the recipe, or the ones that fit the numbers of cells. Raises UserError."""
    width, height = job.size

    def cells(stride: int) -> int:
        return ceil(width / stride) * ceil(height / stride)

    asked = (job.recipe.strides,) if job.recipe.strides else STRIDES
    for strides in asked if len(counts) == 1 else ():
        if sum(map(cells, strides)) == counts[0]:
            return strides
    if len(counts) > 1:
        candidates = job.recipe.strides or sorted({stride for row in STRIDES for stride in row} | {64, 128})
        found = [[stride for stride in candidates if cells(stride) == count] for count in counts]
        if all(found):
            return tuple(strides[0] for strides in found)
    shown = ", ".join(map(str, counts))
    raise UserError(
        f"{job.where}: {shown} cells fit no strides of a {width} x {height} picture; give onnx.detection.strides, or "
        "the size that the graph was exported for"
    )


def _cells(size: tuple[int, int], strides: Sequence[int], offset: float) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Where each cell's distances begin, [N, 2] pixels (x, y), row by row and scale by scale; and its stride, [N]."""
    width, height = size
    centres, steps = [], []
    for stride in strides:
        y, x = np.mgrid[0 : ceil(height / stride), 0 : ceil(width / stride)]
        centres.append((np.stack([x, y], axis=-1).reshape(-1, 2) + offset) * stride)
        steps.append(np.full(x.size, stride))
    return np.concatenate(centres), np.concatenate(steps)


def _list(job: _Job) -> tuple[str, str]:
    """What a network, or the suppression inside it, has found already."""
    tail, recipe = job.tail, job.recipe
    (output,) = recipe.scores
    if recipe.boxes:
        boxes, rows = job.tensor(recipe.boxes[0], 4, "boxes [1, N, 4]")
        for name in (output, recipe.classes):
            if int(np.prod(job.shapes[name])) != rows:
                raise job.refused(name, f"a value for each of {rows} boxes")
        scores = tail.shaped(job.read[output], 1, rows, 1)
        numbers = tail.shaped(job.read[recipe.classes], 1, rows, 1)
    else:
        found, _ = job.tensor(output, 6, "[1, N, 6]")
        boxes, scores, numbers = tail.columns(found, 0, 4), tail.columns(found, 4, 5), tail.columns(found, 5, 6)
    apart = tail.add("Abs", tail.add("Sub", numbers, tail.constant(np.arange(job.labels, dtype=np.float32))))
    own = tail.add("Cast", tail.add("Less", apart, tail.floats(0.5)), to_type=TensorProto.FLOAT)
    return job.corners(boxes, "corners", "pixels"), tail.add("Mul", own, job.activated(scores))


_FORMS = {"yolo": _yolo, "detr": _detr, "nanodet": _nanodet, "list": _list}


@dataclass(frozen=True)
class Guess:
    """How a detector's outputs are probably to be read."""

    words: str
    """For people."""
    labels: int
    lines: tuple[str, ...]
    """Of `[onnx.detection]`."""
    normalisation: str = ""
    """How such networks' pictures are, where they are mostly so."""


def guess_form(values: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> Guess | None:
    """By the shapes of the outputs, and by the `values` that came out for noise; `size`: the picture's width and
    height. None where they are of no form that is known.
    """
    tables = {name: value for name, value in values.items() if value.ndim == 3 and value.shape[0] == 1}
    return _guess_nanodet(tables, size) or _guess_detr(tables) or _guess_single(tables, size)


def _guess_nanodet(tables: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> Guess | None:
    """Pairs of as many cells as a stride gives, of which one holds four distances in bins."""
    strides = {ceil(size[0] / stride) * ceil(size[1] / stride): stride for stride in (4, 8, 16, 32, 64)}
    by_cells: dict[int, list[str]] = {}
    for name, value in tables.items():
        by_cells.setdefault(value.shape[1], []).append(name)
    pairs = [names for cells, names in sorted(by_cells.items(), reverse=True) if cells in strides and len(names) == 2]
    if len(pairs) < 2 or len(pairs) * 2 != len(tables):
        return None
    widths = [{tables[name].shape[2] for name in names} for names in pairs]
    if any(width != widths[0] for width in widths) or len(widths[0]) != 2:
        return None
    # Distances are of any sign before their softmax; scores lie between 0 and 1.
    signed = {tables[name].shape[2] for names in pairs for name in names if (tables[name] < 0).any()}
    bins = next((width for width in sorted(signed or widths[0]) if width % 4 == 0 and width > 4), None)
    if bins is None or len(signed) > 1:
        return None
    scores = [name for names in pairs for name in names if tables[name].shape[2] != bins]
    boxes = [name for names in pairs for name in names if tables[name].shape[2] == bins]
    labels = tables[scores[0]].shape[2]
    lines = ('form = "nanodet"', f"scores = {_listed(scores)}", f"boxes = {_listed(boxes)}")
    words = f"distances from cells in {bins // 4} bins, {labels} scores, at {len(pairs)} scales, as NanoDet's"
    return Guess(words, labels, (*lines, "offset = 0.5    # look: 0 for NanoDet-Plus"))


def _guess_detr(tables: Mapping[str, NDArray[Any]]) -> Guess | None:
    """Four numbers for each of as many things as there are scores for."""
    boxes = [name for name, value in tables.items() if value.shape[2] == 4]
    if len(boxes) != 1 or len(tables) != 2:
        return None
    (scores,) = (name for name in tables if name != boxes[0])
    if tables[scores].shape[1] != tables[boxes[0]].shape[1]:
        return None
    labels, things = tables[scores].shape[2], tables[scores].shape[1]
    lines = ('form = "detr"', f"scores = {_listed([scores])}", f"boxes = {_listed(boxes)}", "max_overlap = 1.0")
    hint = "    # look: one label fewer where the last score is for nothing"
    return Guess(
        f"{things} things, {labels} scores and a box for each, as DETR's", labels, (lines[0] + hint, *lines[1:])
    )


def _guess_single(tables: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> Guess | None:
    """A row (or a column) for each cell, three for each of some networks', or a short list of what is found."""
    if len(tables) != 1:
        return None
    ((name, value),) = tables.items()
    width, height = size
    cells = {
        sum(ceil(width / stride) * ceil(height / stride) for stride in strides) * anchors
        for strides in STRIDES
        for anchors in (1, 3)
    }
    _, rows, columns = value.shape
    lines: tuple[str, ...] = (f"scores = {_listed([name])}",)
    if columns == 6 and rows <= 1000 and rows not in cells:
        lines = ('form = "list"    # look: labels, as many as it knows', *lines, "max_overlap = 1.0")
        return Guess(f"a list of {rows} boxes, each with its score and class", 1, lines)
    if rows in cells and columns > 5 and columns not in cells:
        # A row a cell: NanoDet's bins behind its scores, or an objectness, as networks with anchors and YOLOX have it.
        plus = sum(ceil(width / stride) * ceil(height / stride) for stride in STRIDES[1])
        if rows == plus and columns > 32 and (value[0, :, columns - 32 :] < 0).any():
            lines = ('form = "nanodet"', *lines, "offset = 0.0")
            return Guess(f"{columns - 32} scores and distances in 8 bins, as NanoDet-Plus'", columns - 32, lines)
        lines = ('form = "yolo"    # look: one label more where there is no objectness', *lines)
        words = f"{rows} boxes with an objectness and {columns - 5} scores, as YOLO's"
        return Guess(words, columns - 5, lines, "unit")
    if columns in cells and 4 < rows < columns:
        lines = ('form = "yolo"', *lines)
        return Guess(f"{columns} boxes with {rows - 4} scores, as YOLO's without anchors", rows - 4, lines, "unit")
    return None


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(map(toml, names))}]"
