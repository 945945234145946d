"""What the heads with labels share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads.kind import Floats
from edge_runtime.heads.policy import DecisionPolicy


def label_problems(
    labels: Sequence[str], policy: DecisionPolicy, may_be_safe: Sequence[str] | None = None
) -> Iterator[str]:
    """Labels that are none or not distinct, and settings of labels that do not exist. `may_be_safe`: what may be said
    as the safe label, where that is more than the labels."""
    if len(set(labels)) != len(labels) or not labels:
        yield f"head.labels must be distinct and at least one, got {list(labels)}"
    allowed = labels if may_be_safe is None else may_be_safe
    if policy.safe_label not in allowed:
        yield f"decision.safe_label {policy.safe_label!r} is none of {', '.join(allowed)}"
    for label in (*policy.thresholds, *policy.immediate, *policy.needs):
        if label not in labels:
            yield f"decision names the label {label!r}, which is none of {list(labels)}"


def softmax(logits: NDArray[np.float32], temperature: float) -> Floats:
    """Over the last axis of `logits / temperature`."""
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.float32], temperature: float) -> Floats:
    """Of each value of `logits / temperature`."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64) / temperature)))
