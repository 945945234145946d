"""A session: all that one reading of the configuration brings. Pipeline, mailboxes with their accounts, sources."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.capture import OpenSources, open_sources
from edge_runtime.capture.intake import Intake, Unrouted
from edge_runtime.capture.source import Source
from edge_runtime.clock import Clock, SleepWatch
from edge_runtime.config import Config
from edge_runtime.errors import ConfigError
from edge_runtime.health import RateMeter
from edge_runtime.kinds.kind import Admit
from edge_runtime.mailbox import Account, Counts, Mailbox
from edge_runtime.messages import AlignedSet, Message
from edge_runtime.pipeline import Pipeline
from edge_runtime.signing_keys import trusted
from edge_runtime.streams import StreamSpec, kind_of, max_age_ns
from edge_runtime.wire import BundleId, StreamHealth

log = logging.getLogger("edge_runtime")

STOP_SOURCES_NS = 1_000_000_000
SLEPT = "slept"
"""Why a message was dropped that was captured before the machine slept."""


@dataclass(eq=False)
class Books:
    """What is counted over all sessions of a runtime."""

    accounts: dict[str, Account] = field(default_factory=dict)
    """By stream."""
    unrouted: Unrouted = field(default_factory=Unrouted)
    engine_restarts: int = 0
    """Of the sessions before."""
    sleep: SleepWatch | None = None
    """Of the machine; made by the first session."""
    admissions: dict[str, tuple[StreamSpec, Admit]] = field(default_factory=dict)
    """Of the session that runs, by stream, with what they remember: a frozen camera stays one under the next bundle."""

    def admission(self, stream: str, spec: StreamSpec) -> Admit:
        """The one that is at work, where it is for the same `spec`; else a new one."""
        known, admit = self.admissions.get(stream, (None, None))
        return admit if admit is not None and known == spec else kind_of(spec).admission(spec)


class Session:
    """Opened whole before anything of the running one is touched; then takes its place, or is closed without a trace.

    Used and closed by the loop it serves, which is the thread that opened its engines: on a GPU they belong to it.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        wake: Callable[[], None],
        books: Books,
        tap: Callable[[Message], None] | None = None,
        decisions: str = "",
        running: Sequence[Source] = (),
        open_sources: OpenSources = open_sources,
        whole: Callable[[], bool] = lambda: True,
    ) -> None:
        """`tap` is shown every message that is taken, in that order; `decisions` is where decisions are published.
        `whole`: whether it asks for more than the pipeline does, at present.

        Sources among `running` that the configuration asks for again are kept; until `start` they go on as they are.
        Raises UserError or EngineError, with everything newly opened closed again.
        """
        bundle = open_bundle(
            bundle_path(config.bundle), trusted([Path(key) for key in config.trusted_keys]), config.allow_unsigned
        )
        manifest = bundle.manifest
        if strange := sorted(config.stream.keys() - manifest.streams.keys()):
            raise ConfigError(f"stream: the bundle has no stream {strange[0]!r}; there are {sorted(manifest.streams)}")
        self.config = config
        self.bundle = bundle
        self.bundle_id = BundleId(manifest.name, manifest.version, bundle.digest)
        self.trigger = manifest.trigger
        self.period_ms = 1000.0 / manifest.streams[manifest.trigger].rate_hz
        self.each_answered = kind_of(manifest.streams[manifest.trigger]).each_answered
        self.heartbeat_ns = int(manifest.decision.heartbeat_ms * 1e6)
        self._clock = clock
        self._books = books
        self._tap = tap
        self.pipeline = Pipeline(bundle, config.engine, restarts=False, zones=config.zones)
        try:
            self.mailboxes = {
                name: Mailbox(
                    kind_of(spec).keep,
                    wake if name == manifest.trigger or name in self.pipeline.ahead else None,
                    books.accounts.setdefault(name, Account()),
                )
                for name, spec in manifest.streams.items()
            }
            books.sleep = self._sleep = books.sleep or SleepWatch(clock)
            self._slept_ns = self._sleep.look()
            self._admissions = {name: (spec, books.admission(name, spec)) for name, spec in manifest.streams.items()}
            demanding = [name for name, row in config.stream.items() if row.stamp == "required"]
            self.intake = Intake(
                manifest.streams,
                self.mailboxes,
                clock,
                books.unrouted,
                self._sleep,
                demanding,
                whole if tap is not None else lambda: False,
                {name: admit for name, (_, admit) in self._admissions.items()},
            )
            self.rates = {name: RateMeter() for name in manifest.streams}
            self.sources = open_sources(config.sources, manifest.streams, self.intake, decisions, running, bundle)
            self._taken_over = [source for source in self.sources if source in running]
            try:
                for source in self.sources:
                    source.ready()
            except BaseException:
                self._stop([source for source in self.sources if source not in self._taken_over])
                raise
        except BaseException:
            self.pipeline.close()
            raise

    @property
    def endpoints(self) -> list[str]:
        """Where inputs may be sent."""
        return [source.endpoint for source in self.sources if hasattr(source, "endpoint")]

    @property
    def ended(self) -> bool:
        """Whether no source has anything more to give; passive ones are asked only where there are no others."""
        giving = [source for source in self.sources if not source.passive] or self.sources
        return all(source.ended for source in giving)

    def start(self) -> None:
        """Let the sources deliver here, those that ran before included. Raises nothing."""
        self._books.admissions = self._admissions
        for source in self.sources:
            if source in self._taken_over:
                source.hand_over(self.intake)
            else:
                source.start()

    def retire(self) -> None:
        """Nothing will be decided here any more: what waits is dropped and counted. After the next one's `start`."""
        for name, mailbox in self.mailboxes.items():
            mailbox.retire(self.pipeline.pending(name))
        self._books.engine_restarts += self.pipeline.engine_restarts

    def close(self, successor: Session | None = None) -> None:
        """Stop the sources, but those that the successor keeps, and free the engines. May take a second."""
        taken_over = successor._taken_over if successor is not None else ()
        self._stop([source for source in self.sources if source not in taken_over])
        self.pipeline.close()

    def abandon(self) -> None:
        """Close what never started; kept sources run on as if nothing had been."""
        self._stop([source for source in self.sources if source not in self._taken_over])
        self.pipeline.close()

    def stop_sources(self) -> None:
        """Stop all of them; nothing more will come."""
        self._stop(self.sources)

    def _stop(self, sources: Sequence[Source]) -> None:
        # All are told before any is waited for, so that several hung devices cost one waiting time, not several.
        for source in sources:
            source.stopping.set()
        deadline_ns = self._clock.now_ns() + STOP_SOURCES_NS
        for source in sources:
            source.stop(max(0.0, (deadline_ns - self._clock.now_ns()) / 1e9))

    @property
    def engine_restarts(self) -> int:
        """Of this session and all before."""
        return self._books.engine_restarts + self.pipeline.engine_restarts

    @property
    def unrouted(self) -> dict[str, int]:
        """Messages refused before they had a stream, by reason."""
        return self._books.unrouted.counts()

    def woke(self) -> bool:
        """Whether the machine has slept since the last call. Then nothing captured before counts any more: what is
        remembered and what waits is dropped and counted as `slept`, and the next decision starts with an empty memory.
        """
        if self._sleep.look() == self._slept_ns:
            return False
        self._slept_ns, awake_ns = self._sleep.look(), self._sleep.awake_ns
        assert awake_ns is not None
        for name, mailbox in self.mailboxes.items():
            mailbox.settle(0, Counter({SLEPT: count} if (count := self.pipeline.pending(name)) else ()))
            mailbox.drop_until(awake_ns, SLEPT)
        self.pipeline.reset()
        return True

    def take(self) -> Iterator[int]:
        """Move waiting messages into the pipeline; capture times that call for a decision, oldest first. Each is to be
        decided before the next is asked for.

        Every sentence deserves its own answer, one of the same stamp as another too; of frames and samples the newest
        by capture time stands for all. One whose moment was decided before it came gets none.
        """
        calling: list[Message] = []
        for name, mailbox in self.mailboxes.items():
            for message in mailbox.take():
                if name == self.trigger:
                    calling.append(message)
                else:
                    self._remember(message)
        for number, message in enumerate(calling, 1):
            self._remember(message)
            if (self.each_answered or number == len(calling)) and self.pipeline.answers(message.captured_ns):
                yield message.captured_ns

    def _remember(self, message: Message) -> None:
        self.pipeline.add(message)
        if self._tap is not None:
            self._tap(message)

    def prefetch(self, now_ns: int) -> None:
        """Between decisions: compute what the next one will need besides its trigger, as of the time of the trigger's
        message that is in the making, if one is: readings that came since then belong to a later decision.
        """
        announced_ns = self.mailboxes[self.trigger].announced_ns
        self.pipeline.prefetch(now_ns if announced_ns is None else min(now_ns, announced_ns))

    def settle(self, aligned: AlignedSet) -> None:
        """Close the accounts of the messages that a decision considered."""
        for name, part in aligned.slices.items():
            decided, dropped = self.pipeline.settle(part)
            if decided or dropped:
                self.mailboxes[name].settle(decided, dropped)

    def new_drops(self) -> dict[str, int]:
        """Messages of all streams dropped since the last call, by reason."""
        total: dict[str, int] = {}
        for mailbox in self.mailboxes.values():
            for reason, count in mailbox.new_drops().items():
                total[reason] = total.get(reason, 0) + count
        return total

    def accounts(self) -> dict[str, Counts]:
        """Each stream's account."""
        return {name: box.counts(self.pipeline.pending(name)) for name, box in self.mailboxes.items()}

    def alive(self, stream: str, now_ns: int) -> bool:
        """Whether `stream` was seen within its maximum age."""
        newest_ns = self.pipeline.newest_ns(stream)
        return newest_ns is not None and now_ns - newest_ns <= max_age_ns(self.pipeline.streams[stream])

    def health(self, now_ns: int) -> dict[str, StreamHealth]:
        """Account, rate and liveness of every stream."""
        return {
            name: StreamHealth(
                captured=counts.captured,
                decided=counts.decided,
                dropped=counts.dropped,
                in_flight=counts.in_flight,
                rate_hz=round(self.rates[name].update(now_ns, counts.captured), 2),
                expected_hz=self.pipeline.streams[name].rate_hz,
                alive=self.alive(name, now_ns),
                max_age_ms=self.pipeline.streams[name].max_age_ms,
                refused_values=self.mailboxes[name].refused_parts,
            )
            for name, counts in self.accounts().items()
        }
