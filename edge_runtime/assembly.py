"""What a bundle brings with it while it runs: pipeline, mailboxes and their accounts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.capture.intake import Intake
from edge_runtime.clock import Clock
from edge_runtime.config import Config
from edge_runtime.health import RateMeter
from edge_runtime.mailbox import Counts, Mailbox
from edge_runtime.messages import AlignedSet, Message
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import TextStream, keep, max_age_ns
from edge_runtime.wire import BundleId, StreamHealth


class Assembly:
    """What a bundle brings with it: pipeline, mailboxes, intake. Replaced whole on reload; loop thread only."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        wake: Callable[[], None],
        tap: Callable[[Message], None] | None = None,
    ) -> None:
        """`tap` is shown every message that is taken, in that order."""
        bundle = open_bundle(bundle_path(config.bundle), tuple(map(Path, config.trusted_keys)), config.allow_unsigned)
        manifest = bundle.manifest
        self.bundle = bundle
        self.bundle_id = BundleId(manifest.name, manifest.version, bundle.digest)
        self.trigger = manifest.trigger
        self.trigger_is_text = isinstance(manifest.streams[manifest.trigger], TextStream)
        self.heartbeat_ns = int(manifest.decision.heartbeat_ms * 1e6)
        self.pipeline = Pipeline(bundle, config.engine)
        self.mailboxes = {
            name: Mailbox(keep(spec), wake if name == manifest.trigger or name in self.pipeline.ahead else None)
            for name, spec in manifest.streams.items()
        }
        self._tap = tap
        self.intake = Intake(manifest.streams, self.mailboxes, clock)
        self.rates = {name: RateMeter() for name in manifest.streams}

    def take(self) -> list[int]:
        """Move waiting messages into the pipeline; capture times that call for a decision, oldest first."""
        references: list[int] = []
        for name, mailbox in self.mailboxes.items():
            for message in mailbox.take():
                self.pipeline.add(message)
                if self._tap is not None:
                    self._tap(message)
                if name == self.trigger:
                    references.append(message.captured_ns)
        # Every sentence deserves its own answer; of frames and samples the newest stands for all.
        return sorted(references) if self.trigger_is_text else references[-1:]

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

    def trouble(self, now_ns: int) -> str | None:
        """Why the runtime is degraded, if it is."""
        for name, spec in self.pipeline.streams.items():
            if spec.required and not self.alive(name, now_ns):
                return f"{name} is silent"
        return self.pipeline.down

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
            )
            for name, counts in self.accounts().items()
        }
