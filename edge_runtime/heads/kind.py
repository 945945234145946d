"""What every kind of head brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step, set_away_from_default
from edge_runtime.messages import Verdict
from edge_runtime.streams import StreamSpec
from edge_runtime.tensor_source import TensorSource, parse_source

Floats = NDArray[np.float64]


class _WithOutput(Protocol):
    @property
    def output(self) -> str: ...


class HeadKind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A head as a manifest describes it. A kind adds its fields, `output` among them, and overrides what raises here.

    All methods are pure; any thread.
    """

    settings: ClassVar[frozenset[str]] = frozenset()
    """The settings of a `DecisionPolicy` that this kind reads."""
    exclusive: ClassVar[bool] = False
    """Whether exactly one of several labels is right."""
    per_word: ClassVar[bool] = False
    """Whether it answers each word of a sentence by itself, not the moment."""

    @property
    def kind(self) -> str:
        """Its name in manifests."""
        return str(self.__struct_config__.tag)

    @property
    def source(self: _WithOutput) -> TensorSource:
        """`output`, parsed: the stage and its output that this head reads."""
        return parse_source(self.output)

    @property
    def summary(self) -> str:
        """What it may say, for people."""
        raise NotImplementedError

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...] | None:
        """The shape that its output must have, -1 for a size that is the graph's own; None where `problems` has said
        why there is none."""
        raise NotImplementedError

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        """What contradicts itself in the head and its policy, one line each."""
        raise NotImplementedError

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        """What to say of the finite `output` (of `shape`, without its first axis), and the state for the next call.

        Without `inputs` nothing that depends on them is asked: `needs` withholds nothing.
        """
        raise NotImplementedError

    def safe(self, policy: DecisionPolicy, reason: str) -> Verdict:
        """The safe answer and its reason."""
        return Verdict(policy.safe_label, 0.0, {}, "safe", reason)

    def wrong(self, output: NDArray[np.float32]) -> str | None:
        """In words, why no graph that is right for this head gives `output` (finite, without its first axis); None
        where it may."""
        return None

    def after_outage(self, state: PolicyState) -> PolicyState:
        """What is left of `state` where there was no answer of the model: after it, its first stands on its own."""
        return PolicyState()

    def ignored(self, policy: DecisionPolicy, acts: bool = True) -> Iterator[str]:
        """The settings that somebody set though this head does not read them. `acts`: it is the bundle's first head,
        whose heartbeat counts."""
        read = self.settings | ({"heartbeat_ms"} if acts else frozenset())
        for name in sorted(set_away_from_default(policy) - read):
            yield f"decision.{name} is set, which a {self.kind} head{'' if acts else ' beside the first'} does not read"
