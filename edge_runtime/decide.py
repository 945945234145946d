"""From the model's output to what is said. Pure: a verdict and the next state from the old state and the inputs.

What a kind of head makes of its output is in `heads`; here is what holds for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step, uncounted
from edge_runtime.messages import AlignedSet, Inference
from edge_runtime.streams import StreamSpec

FEW = 256
"""So many values are looked at faster one by one than all at once."""


def blocking_input(streams: Mapping[str, StreamSpec], aligned: AlignedSet) -> str | None:
    """Why these inputs forbid a decision by the model, or None. E.g. `camera.front missing`."""
    for name, spec in streams.items():
        part = aligned.slices[name]
        if spec.required and not part.present:
            return f"{name} {part.reason}"
        if part.missing_channels:
            return f"{name}.{part.missing_channels[0]} {'stale' if part.present else part.reason}"
    if streams and not any(part.present for part in aligned.slices.values()):
        return "no input"
    return None


def finite(output: NDArray[np.float32]) -> bool:
    """Whether all values are numbers and none is infinite; quick for the few that most heads give."""
    if output.size > FEW:
        return bool(np.isfinite(output).all())
    return all(map(math.isfinite, output.ravel().tolist()))


def decide(
    head: Head,
    policy: DecisionPolicy,
    state: PolicyState,
    blocked: str | None,
    inference: Inference,
    inputs: Inputs | None = None,
    counts: bool = True,
) -> Step:
    """What `head` says of `inference.output`, and the state for the next call.

    `blocked` is `blocking_input`'s answer. A missing or non-finite output gives the safe decision, which also
    forgets the hysteresis: after an outage the model's first answer stands on its own. Without `inputs` nothing that
    depends on them is asked. What does not count (a heartbeat) lets no label win and leaves the hysteresis as it was.
    """
    if blocked is not None:
        return head.safe(policy, blocked), head.after_outage(state)
    if inference.output is None:
        return head.safe(policy, inference.error or "no output"), head.after_outage(state)
    if not finite(inference.output):
        return head.safe(policy, "output not finite"), head.after_outage(state)
    if counts:
        return head.decide(policy, state, inference.output[0], inputs)
    return head.decide(uncounted(policy), state, inference.output[0], inputs)[0], state
