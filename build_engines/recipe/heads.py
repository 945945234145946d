"""The keys of heads, and heads as a manifest describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec import Struct

from build_engines.recipe.detection import DetectionRecipe
from edge_runtime.errors import ConfigError
from edge_runtime.heads import Head
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.regression import RegressionHead, Value
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.heads.tagging import TaggingHead
from edge_runtime.streams import Name, Positive


class SideHeadRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """A head beside the first: told with every decision, and trained and judged with it."""

    name: Name
    """Under which its answers stand in the decision."""
    head: str
    """Its kind, as `head` at the top."""
    decision: DecisionPolicy = DecisionPolicy()
    labels: tuple[str, ...] = ()
    """In the order of its outputs; empty for a regression head."""
    values: tuple[Value, ...] = ()
    weight: Positive = 1.0
    """Of its loss."""


class HeadRow(NamedTuple):
    """What a recipe says of one kind of head."""

    answers: str
    """The key, of the recipe and of a side head, that lists what it may answer."""
    goal: str
    """The setting of `[gate]` that it must reach in FP32; its default asks for nothing."""
    table: str
    """The table of `[dataset]` that names the fields of what is right."""
    targets: Callable[[str, Any], tuple[str, ...]]
    """The head's name (empty: the first) and the head, to the keys that this table must have."""


_LABELLED = HeadRow("labels", "macro_f1", "side_labels", lambda name, head: (name,) if name else ())
HEAD_ROWS: dict[type, HeadRow] = {
    SoftmaxHead: _LABELLED,
    SigmoidHead: _LABELLED,
    TaggingHead: _LABELLED,
    DetectionHead: HeadRow("labels", "ap", "side_labels", lambda name, head: ()),
    RegressionHead: HeadRow("values", "nmae", "targets", lambda name, head: tuple(value.name for value in head.values)),
}


def make_head(
    kind: str,
    output: str,
    labels: tuple[str, ...],
    values: tuple[Value, ...] = (),
    seen: DetectionRecipe | None = None,
    camera: str = "",
) -> Head:
    """A head as a manifest describes it, reading `output`. `seen`: of a detection head, which looks at `camera` unless
    it says otherwise. Raises ConfigError (one line)."""
    fields = next((row.__struct_fields__ for row in get_args(Head) if row.__struct_config__.tag == kind), ())
    answers = {"labels": labels, "values": msgspec.to_builtins(values)}
    # Labels may be found in the data later; what has none is not given any.
    settings: dict[str, Any] = {
        name: answer for name, answer in answers.items() if answer or (name == "labels" and name in fields)
    }
    if seen is not None:
        settings |= {"camera": seen.camera or camera, "max_overlap": seen.max_overlap, "most": seen.most}
    elif kind == DetectionHead.__struct_config__.tag:
        raise ConfigError("head = 'detection' is for detectors that were trained elsewhere: [onnx]")
    if labels and values:
        raise ConfigError(f"head = {kind!r}: labels and values exclude each other")
    try:
        head: Head = msgspec.convert({"kind": kind, "output": output, **settings}, Head)
    except msgspec.ValidationError as error:
        kinds = ", ".join(str(row.__struct_config__.tag) for row in get_args(Head))
        raise ConfigError(f"head = {kind!r}: {error}; kinds of heads are {kinds}") from None
    return head
