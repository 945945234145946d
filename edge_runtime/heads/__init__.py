"""The table of head kinds: how an output of the stage graph becomes an answer.

A kind is one module: what a manifest says of it, the checks of that, its decision (pure), and what it says where it may
not decide. Its row is its place in `Head`, by which manifests are read. What the build needs of a kind is its row in
`build_engines.heads`.
"""

from __future__ import annotations

from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.regression import RegressionHead
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.heads.tagging import TaggingHead

Head = SoftmaxHead | SigmoidHead | TaggingHead | RegressionHead | DetectionHead
