"""The table of head kinds in the build. A kind is a module and a row here, and the same in `edge_runtime.heads`."""

from __future__ import annotations

from typing import Any

from build_engines.heads.detection import DetectionBuild
from build_engines.heads.kind import AnyHeadBuild
from build_engines.heads.labelled import OneLabelBuild
from build_engines.heads.regression import RegressionBuild
from build_engines.heads.sigmoid import SigmoidBuild
from build_engines.heads.softmax import SoftmaxBuild
from build_engines.heads.tagging import TaggingBuild
from edge_runtime.errors import UserError
from edge_runtime.heads import Head
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.regression import RegressionHead
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.heads.tagging import TaggingHead

HEADS: dict[type, AnyHeadBuild] = {
    SoftmaxHead: SoftmaxBuild(),
    SigmoidHead: SigmoidBuild(),
    TaggingHead: TaggingBuild(),
    RegressionHead: RegressionBuild(),
    DetectionHead: DetectionBuild(),
}


def one_label_build(head: Head) -> OneLabelBuild[Any]:
    """The same for a head that answers a moment with one label. Raises UserError for another."""
    build = build_of(head)
    if not isinstance(build, OneLabelBuild):
        raise UserError(f"a {head.kind} head has neither thresholds nor confidence per label")
    return build


def build_of(head: Head) -> AnyHeadBuild:
    """The row of the head's kind."""
    return HEADS[type(head)]
