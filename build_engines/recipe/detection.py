"""The keys of `[onnx.detection]`: how a detector's outputs are to be read."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_runtime.heads.detection import MOST
from edge_runtime.heads.policy import Probability

Form = Literal["plain", "yolo", "detr", "nanodet", "list"]


class DetectionRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """How a detector says what it sees. The build writes the rest into the graph: a box in shares of the picture and a
    score for each label, for every candidate."""

    form: Form = "plain"
    """`plain`: boxes and scores as a bundle has them, [1, N, 4 + labels]. `yolo`: one tensor of boxes, perhaps an
    objectness, and scores, [1, 4 + labels, N] or [1, N, 4 or 5 + labels]. `detr`: scores [1, N, labels, perhaps one for
    nothing] and boxes [1, N, 4]. `nanodet`: for each scale scores [1, cells, labels] and four distances in bins
    [1, cells, 4 * bins], or both in one tensor. `list`: what is found already, [1, N, 6] of box, score and class, or
    boxes [1, N, 4], scores [1, N] and classes [1, N]."""
    scores: tuple[str, ...] = ()
    """The graph's outputs with the scores, or with everything; of `nanodet` one for each scale, or one for all."""
    boxes: tuple[str, ...] = ()
    """Its outputs with the boxes, where they are others; in the order of `scores`."""
    classes: str = ""
    """Of `list`: its output with the classes' numbers, where that is another."""
    sides: Literal["", "centre", "corners"] = ""
    """What a box's four numbers are: its middle, width and height (what `yolo` and `detr` mean unless told), or left,
    top, right and bottom (what `list` means)."""
    units: Literal["", "pixels", "shares"] = ""
    """Of boxes: pixels of the model's picture (what `yolo` and `list` mean unless told), or shares of it (`detr`)."""
    activation: Literal["", "none", "sigmoid", "softmax"] = ""
    """What makes scores of what the graph gives. Unless told, `detr` means a softmax where there is one for nothing,
    else a sigmoid; all others mean that they are scores already."""
    strides: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    """Of `nanodet`: pixels from cell to cell, for each scale; unless given, those that fit the number of cells."""
    offset: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Of `nanodet`: where in its cell a distance begins: 0.5 its middle, 0 its corner (NanoDet-Plus)."""
    camera: str = ""
    """The stream that it looks at; unless given, the only camera."""
    max_overlap: Probability = 0.6
    """Of two boxes of one class that overlap (intersection over union) by more, the surer one is said; 1 = both are,
    for networks that find each thing once."""
    most: Annotated[int, Meta(ge=1, le=MOST)] = MOST
    """Things that one decision tells at most."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs of the graph that are read; none of a `plain` one, which `onnx.output` names."""
        return (*self.scores, *self.boxes, *((self.classes,) if self.classes else ()))

    def problem(self) -> str | None:
        """What contradicts itself, or None."""
        if self.form == "plain":
            return "form = 'plain' reads onnx.output; leave scores, boxes and classes out" if self.outputs else None
        if not self.scores:
            return f"form = {self.form!r} needs `scores`: the graph's outputs that it reads"
        many, apart = self.form == "nanodet", self.form == "detr"
        if len(self.scores) > 1 and not many:
            return f"form = {self.form!r} reads one output with scores, not {len(self.scores)}"
        if self.boxes and (len(self.boxes) != len(self.scores) or self.form == "yolo"):
            return f"form = {self.form!r}: {len(self.scores)} outputs with scores and {len(self.boxes)} with boxes"
        if not self.boxes and (apart or len(self.scores) > 1):
            return f"form = {self.form!r} needs `boxes`: the graph's outputs with the boxes"
        if self.classes and self.form != "list":
            return f"form = {self.form!r} has no `classes`"
        if self.form == "list" and bool(self.boxes) != bool(self.classes):
            return "form = 'list' needs boxes and classes, or neither"
        return None
