"""Settings that follow from a model's outputs, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from edge_runtime.heads.policy import DecisionPolicy


class Fitted(Struct, frozen=True):
    """What was fitted to outputs on moments that the model did not learn from."""

    offsets: tuple[float, ...] = ()
    """Added to a softmax head's logits; empty = nothing."""
    policy: dict[str, Any] = {}
    """Temperature and thresholds of the first head, where it has any."""
    side: dict[str, dict[str, Any]] = {}
    """The same of the heads beside it."""


def fitted_policy(own: DecisionPolicy, fitted: Mapping[str, Any]) -> DecisionPolicy:
    """`own` with what was `fitted`; thresholds that the recipe sets stand above fitted ones."""
    settings = dict(fitted)
    thresholds = settings.pop("thresholds", {}) | own.thresholds
    return msgspec.structs.replace(own, thresholds=thresholds, **settings)
