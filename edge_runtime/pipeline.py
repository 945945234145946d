"""From messages to decisions: align -> preprocess -> infer -> decide.

`Pipeline` is synchronous and reads no clock, so the live loop, offline evaluation and replay run the same code.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from edge_runtime.admit import Refusal
from edge_runtime.align import RULES, History, align
from edge_runtime.bundle import Bundle
from edge_runtime.config import EngineConfig
from edge_runtime.decide import blocking_input, decide, finite
from edge_runtime.errors import EngineError, UserError
from edge_runtime.heads.policy import Inputs, PolicyState
from edge_runtime.infer import ON_CPU
from edge_runtime.infer.stages import StageGraph
from edge_runtime.kinds.kind import Partly
from edge_runtime.messages import AlignedSet, Inference, Message, Slice, Tensors, Verdict, Words
from edge_runtime.streams import kind, kind_of, preprocessors
from edge_runtime.zones import Zones

log = logging.getLogger("edge_runtime.pipeline")

RESTART_PAUSE_NS = 1_000_000_000
MAX_RESTART_PAUSE_NS = 32_000_000_000


class Outcome(Struct, frozen=True):
    """One decision with all that led to it."""

    aligned: AlignedSet
    inference: Inference
    verdict: Verdict
    """Of the bundle's first head: what is acted on."""
    side: Mapping[str, Verdict] = {}
    """Of the heads beside it, by name."""


class Pipeline:
    """A bundle made ready to decide. Made, used and closed by one thread."""

    def __init__(
        self,
        bundle: Bundle,
        engine: EngineConfig = ON_CPU,
        cache: bool = True,
        plan: Mapping[str, str] | None = None,
        restarts: bool = True,
        zones: Zones = MappingProxyType({}),
    ) -> None:
        """`plan` (stage to precision) replaces the manifest's. `restarts`: whether engines that failed are opened again
        here, while a decision waits; otherwise by somebody else, beside a loop: `open_graph` and `adopt`. `zones`:
        of the cameras' pictures.
        """
        manifest = bundle.manifest
        self.bundle = bundle
        self.streams = manifest.streams
        self.engine_restarts = 0
        self._heads = [("", manifest.head, manifest.decision)]
        self._heads += [(side.name, side.head, side.decision) for side in manifest.side_heads]
        self._preprocessors = preprocessors(manifest.streams, bundle.read)
        self._engine, self._cache, self._plan = engine, cache, plan
        self._graph = self.open_graph()
        self.backends = dict(self._graph.backends)
        """Stage to back end."""
        self.precisions = dict(self._graph.precisions)
        """Stage to precision."""
        # What the trigger's next message will need besides itself can be had before it comes.
        self._ahead = {name: manifest.streams[name] for name in manifest.streams_read if name != manifest.trigger}
        self._history = History(manifest.streams)
        self._now_ns = 0
        self._rules = RULES
        self._states: dict[str, PolicyState] = {}
        self._down: str | None = None
        self._restarts = restarts
        self._zones = zones
        self.device_lost = False
        """Whether the engines failed with a device that nothing brings back in this process."""
        self.answered = 0
        """Times that the model has answered."""
        self._restart_after_ns = 0
        self._restart_pause_ns = RESTART_PAUSE_NS

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process, it is opened there anew."""
        return type(self), (self.bundle, self._engine, self._cache, self._plan, self._restarts)

    def add(self, message: Message) -> None:
        """Remember `message` for the decisions to come."""
        self._history.add(message)

    def decide(self, reference_ns: int, now_ns: int, blocking: bool = True, heartbeat: bool = False) -> Outcome:
        """Decide from the messages captured at or before `reference_ns`; ages are taken at `now_ns`.

        An engine that fails gives the safe decision, and is opened again. `blocking` = False asks the model even where
        a required input is missing: for measuring what each input is worth, never for acting. A `heartbeat` answers no
        message: hysteresis does not count it, and messages captured before it still get their decisions.
        """
        heartbeat = heartbeat and self._rules > 1
        self._history.decided(reference_ns, heartbeat)
        self._now_ns = now_ns
        aligned = align(self.streams, self._history.messages, reference_ns, now_ns, pair=self._rules > 1)
        blocked = blocking_input(self.streams, aligned) if blocking else None
        inference = Inference(None) if blocked is not None else self._infer(aligned, now_ns)
        inputs = Inputs(self.streams, aligned, self._zones)
        verdicts: dict[str, Verdict] = {}
        for name, head, policy in self._heads:
            answer = inference if not name else Inference(inference.side.get(name), error=inference.error)
            applied = policy if blocking or not policy.needs else replace(policy, needs={})
            state = self._states.get(name, PolicyState())
            verdicts[name], self._states[name] = decide(head, applied, state, blocked, answer, inputs, not heartbeat)
        return Outcome(aligned, inference, verdicts.pop(""), verdicts)

    def predict(self, inputs: Mapping[str, object]) -> Outcome:
        """One decision on `inputs` alone, all of them captured at once; what was added before is forgotten.

        By stream: a picture (uint8 [height, width, 3] BGR, or a JPEG's bytes), values by channel in the channel's unit,
        a sentence, or sound (bytes of 16 kHz mono PCM, int16 little-endian). They are admitted as live ones are.
        Raises UserError for a stream that the bundle lacks and for what is not admitted.
        """
        messages = [self._admitted(name, content) for name, content in inputs.items()]
        self.reset()
        self._restart_after_ns = 0  # nobody's loop is held up: engines that failed are tried again at once
        for message in messages:
            self.add(message)
        outcome = self.decide(0, 0)
        self.reset()
        return outcome

    def prefetch(self, reference_ns: int) -> None:
        """Between decisions: run the stages of all streams but the trigger's, where they have something new for a
        decision at `reference_ns`.
        """
        if self._down is not None or not self._ahead:
            return
        # What was too old at the last decision is forgotten, but for its time: ages never go back behind that.
        now_ns = max(reference_ns, self._now_ns)
        aligned = align(self._ahead, self._history.messages, reference_ns, now_ns)
        try:
            self._graph.prefetch(aligned, self._ahead)
        except EngineError:
            return  # the decision will meet the same error, and deal with it

    def settle(self, part: Slice) -> tuple[int, Counter[str]]:
        """Close the account of the messages that the last decision considered: see `History.settle`."""
        return self._history.settle(part, self._now_ns)

    def answers(self, captured_ns: int) -> bool:
        """Whether a message captured then still gets a decision of its own: references never go backwards."""
        return captured_ns >= self._history.floor_ns

    def pending(self, stream: str) -> int:
        """Messages of `stream` that no decision has considered yet."""
        return self._history.pending(stream)

    def newest_ns(self, stream: str) -> int | None:
        """Capture time of the newest message of `stream` still remembered."""
        messages = self._history.messages[stream]
        return messages[-1].captured_ns if messages else None

    def reset(self, rules: int = RULES) -> None:
        """Forget all messages and the policy's state, as after a cut between two recordings; decide by `rules` from
        here on.
        """
        self._rules = rules
        self._history = History(self.streams)
        self._states = {}
        self._graph.forget()

    @property
    def down(self) -> str | None:
        """Why the engines cannot be used at the moment, if so."""
        return self._down

    def open_graph(self, on_cpu: bool = False) -> StageGraph:
        """Engines as those that failed, opened and warm; with ONNX Runtime where `on_cpu`. Theirs is the thread that
        calls this, and that calls `adopt`'s pipeline from then on. Raises UserError or EngineError.
        """
        settings = replace(self._engine, backend="onnxruntime") if on_cpu else self._engine
        return StageGraph(self.bundle, self._tensors, settings, self._cache, self._plan)

    def adopt(self, graph: StageGraph) -> None:
        """Go on with these engines in place of those that failed."""
        self._graph = graph
        self._opened()

    @property
    def falls_back(self) -> bool:
        """Whether engines may run on the CPU instead."""
        return self._engine.falls_back

    @property
    def ahead(self) -> frozenset[str]:
        """The streams whose messages `prefetch` can make use of."""
        return frozenset(self._ahead)

    def close(self) -> None:
        """Free the engines. Harmless when called again."""
        self._graph.close()

    def _admitted(self, stream: str, content: object) -> Message:
        """Captured at 0."""
        spec = self.streams.get(stream)
        if spec is None:
            raise UserError(f"input {stream!r}: the bundle has no such stream; there are {', '.join(self.streams)}")
        raw = Words(content) if isinstance(content, str) else content
        if not isinstance(raw, kind_of(spec).content):
            raise UserError(f"input {stream!r}: {type(content).__name__} is nothing for a stream of {kind(spec)}")
        make = kind_of(spec).admission(spec)(raw)
        if isinstance(make, Refusal):
            raise UserError(f"input {stream!r}: is refused: {make.reason} {make.detail}".rstrip())
        if isinstance(make, Partly):  # a caller who asks once should hear of all that is amiss
            name, why = next(iter(make.refused.items()))
            raise UserError(f"input {stream!r}: {name} is refused: {why.reason} {why.detail}".rstrip())
        return make(stream, 0, 0, None)

    def _tensors(self, stream: str, part: Slice) -> Tensors:
        return self._preprocessors[stream](part)

    def _infer(self, aligned: AlignedSet, now_ns: int) -> Inference:
        if self._down is not None and not (self._restarts and self._restart(now_ns)):
            return Inference(None, error=self._down)
        try:
            inference = self._graph.run(aligned)
            if inference.output is None or not all(map(finite, (inference.output, *inference.side.values()))):
                raise EngineError("output not finite")
        except EngineError as error:
            log.error("engine failed: %s; deciding safely until engines are open again", error)
            self._down = f"engine: {error}"
            self.device_lost = error.device_lost
            self._close_failed()
            self._restart_after_ns = max(self._restart_after_ns, now_ns)
            return Inference(None, error=self._down)
        self._restart_pause_ns = RESTART_PAUSE_NS
        self.answered += 1
        return inference

    def _close_failed(self) -> None:
        """What they held makes room for those that are opened in their place."""
        try:
            self._graph.close()
        except EngineError as error:
            log.warning("engines that failed cannot be closed: %s", error)

    def _restart(self, now_ns: int) -> bool:
        """Reopen the engines, at growing intervals so that a model that always fails does not eat the loop.

        Where the configuration allows it, the CPU takes over once a restart did not help.
        """
        if now_ns < self._restart_after_ns:
            return False
        on_cpu = self.falls_back and self._restart_pause_ns > RESTART_PAUSE_NS
        self._restart_after_ns = now_ns + self._restart_pause_ns
        self._restart_pause_ns = min(2 * self._restart_pause_ns, MAX_RESTART_PAUSE_NS)
        try:
            self._graph.open(on_cpu)
        except (EngineError, UserError) as error:
            log.error("engine does not restart: %s", error)
            self._down = f"engine: {error}"
            return False
        self._opened()
        return True

    def _opened(self) -> None:
        self.backends, self.precisions = dict(self._graph.backends), dict(self._graph.precisions)
        self.engine_restarts += 1
        self._down = None
        self.device_lost = False
