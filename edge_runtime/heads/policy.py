"""What decides between a head's output and its answer: the policy's settings, what hysteresis remembers, the inputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from edge_runtime.messages import AlignedSet, Verdict
from edge_runtime.streams import Name, Positive, StreamSpec
from edge_runtime.tracking import Tracks
from edge_runtime.zones import Zones

Probability = Annotated[float, Meta(ge=0, le=1)]


class DecisionPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """From a head's output to what is said. Each kind of head reads some of the settings; others must be left alone."""

    safe_label: str = ""
    """Said when a required input is missing or the model has no valid answer: a label; for a sigmoid head also `none`
    or `undecided`. Empty for a regression head, whose values each have a safe value."""
    temperature: Positive = 1.0
    """Logits are divided by it before softmax/sigmoid (Guo et al. 2017, arXiv:1706.04599)."""
    threshold: Probability = 0.0
    """Below this confidence the decision abstains: the safe label, with the reason."""
    thresholds: dict[str, Probability] = {}
    """Per label, instead of `threshold`."""
    needs: dict[str, tuple[Name, ...]] = {}
    """Per label of a softmax head, the streams without which it is not said: while one of them is absent, the safe
    label is, with the reason. For what such a stream alone can tell; `required` streams block every label."""
    hold: Annotated[int, Meta(ge=1)] = 1
    """A new label must win this many decisions in a row before it replaces the old one."""
    immediate: tuple[str, ...] = ()
    """Labels that need no hold (the ones where waiting is worse than a false alarm)."""
    heartbeat_ms: Positive = 500.0
    """Decide at least this often, even when the trigger stream is silent. For the head that acts."""

    @property
    def needed_streams(self) -> frozenset[str]:
        """All streams that `needs` names."""
        return frozenset(name for names in self.needs.values() for name in names)


class PolicyState(Struct, frozen=True):
    """What a head remembers from one decision to the next."""

    label: str | None = None
    candidate: str | None = None
    wins: int = 0
    tracks: Tracks = Tracks()
    """What a detection head follows."""


class Inputs(Struct, frozen=True):
    """What a decision may ask of its inputs besides the model's output."""

    streams: Mapping[str, StreamSpec]
    aligned: AlignedSet
    zones: Zones = {}
    """Of the cameras' pictures, as the configuration draws them."""


Step = tuple[Verdict, PolicyState]
"""A decision: what is said, and the state for the next one."""


def set_away_from_default(policy: DecisionPolicy) -> frozenset[str]:
    """Names of the settings that differ from what they are where nobody sets them."""
    plain = DecisionPolicy()
    return frozenset(name for name in policy.__struct_fields__ if getattr(policy, name) != getattr(plain, name))


def uncounted(policy: DecisionPolicy) -> DecisionPolicy:
    """`policy` for a decision that counts for no hold: what was said goes on, unless there is no hold at all."""
    return policy if policy.hold == 1 else replace(policy, hold=sys.maxsize)
