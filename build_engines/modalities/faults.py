"""Faults: ways in which one stream's messages go bad in the field. Each modality brings its own.

A fault takes labelled moments and gives them with raw messages changed, before the device's admission; what admission
makes of them is part of what is measured. Random changes are seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from calibration.moments import LabelledSet, RawMessage

Moments = Iterable[LabelledSet]
Fault = Callable[[Moments], Iterator[LabelledSet]]
Change = Callable[[RawMessage, np.random.Generator], RawMessage]
SEED = 20


def changed(moments: Moments, stream: str, change: Change) -> Iterator[LabelledSet]:
    """`change` done to every message of `stream`."""
    rng = np.random.default_rng(SEED)
    for moment in moments:
        messages = tuple(change(raw, rng) if raw.stream == stream else raw for raw in moment.messages)
        yield replace(moment, messages=messages)


def each_message(stream: str, make_change: Callable[[], Change]) -> Fault:
    """The fault that changes every message of `stream`, with a change of its own for every run."""
    return lambda moments: changed(moments, stream, make_change())
