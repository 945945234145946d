"""One decision beside its truth."""

from __future__ import annotations

from msgspec import Struct

from calibration.moments import TrueObject
from edge_runtime.messages import Detection


class Prediction(Struct, frozen=True):
    """One decision of one head beside its truth: a line of the predictions file."""

    id: str
    truth: str
    label: str
    confidence: float
    source: str
    reason: str | None
    probabilities: dict[str, float]
    condition: str = ""
    group: str = ""
    """What it belongs to: the runtime's memory starts afresh with each group."""
    truth_tags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """What a tagging head gave each word; the labels that a sigmoid head found."""

    head: str = "softmax"
    cluster: str = ""
    """Moments of one cluster are not independent."""
    truth_values: dict[str, float] = {}
    values: dict[str, float] = {}
    """Of a regression head."""
    truth_objects: tuple[TrueObject, ...] = ()
    objects: tuple[Detection, ...] = ()
    """What a detection head said."""
    candidates: tuple[Detection, ...] = ()
    """What its model found, the surest hundred whatever the thresholds: average precision is taken over all scores."""

    @property
    def unit(self) -> str:
        """What it is not independent of: its cluster, or its group."""
        return self.cluster or self.group
