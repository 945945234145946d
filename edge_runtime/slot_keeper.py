"""Keeps a running service with its slots: starts what is to run, takes over what is installed, judges trials.

A thread looks at `state.json` a few times a second; the loop only hands it what it publishes. All that it does to the
service is to ask for a reload, which opens the other bundle beside the running one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from pathlib import Path

import msgspec

from edge_runtime.attempt import STOPPING
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import SLOT
from edge_runtime.clock import Clock, RealClock
from edge_runtime.config import Config
from edge_runtime.cuda import CudaUnavailable
from edge_runtime.errors import BundleError, ConfigError, EdgeError, HeldError, UserError
from edge_runtime.messages import Message
from edge_runtime.runtime import Runtime
from edge_runtime.shadow import Shadow
from edge_runtime.signing_keys import trusted
from edge_runtime.slots import STATE, Slot, Slots, State
from edge_runtime.trial import Proof
from edge_runtime.wire import DecisionMessage, StatusMessage

log = logging.getLogger("edge_runtime")

POLL_S = 0.1
MAX_HEARD = 10_000
"""Published messages that wait for the next look."""


class SlotKeeper:
    """Of one service. `heard`, `took` and `answered` are the runtime's to call; the rest is the starting thread's."""

    def __init__(self, slots: Slots, clock: Clock | None = None) -> None:
        self._slots = slots
        self._clock = clock or RealClock()
        self._heard: deque[DecisionMessage | StatusMessage] = deque(maxlen=MAX_HEARD)
        self._begun = False
        """Whether the runtime has come to publish anything."""
        self._runtime: Runtime | None = None
        self._running: Slot | None = None
        self._opening: tuple[Slot, bool] | None = None
        """What the reload under way opens, and whether it was asked for here."""
        self._refused: tuple[int, int] | None = None
        """Mark of the state whose bundle could not be opened: not asked for again."""
        self._asked = False
        self._mark: tuple[int, int] | None = None
        self._state = State()
        self._proof: Proof | None = None
        self._shadow: Shadow | None = None
        self._shadow_slot: Slot | None = None
        self._shadow_until_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="slots", daemon=True)

    def begin(self, config: Config) -> Config:
        """With the bundle that the process has to start with. Raises UserError."""
        self._check(config)
        try:
            self._running = self._slots.boot()
        except BundleError:
            raise
        except UserError as error:
            # Not counted is better than not started.
            log.warning("%s; the start is not counted", error)
            if (current := self._slots.read().current) is None:
                raise
            self._running = current
        return self._with(config, self._running)

    def again(self, error: EdgeError) -> bool:
        """Whether the start that ended in `error` is to be tried with another slot: then that one is current.

        One on trial is bad if it cannot be started, unless something else is in the way; one that was good only if it
        is whole no more, and another is.
        """
        slot = self._running
        if slot is None or self._begun or isinstance(error, (HeldError, CudaUnavailable)):
            return False
        if slot.state != "pending":
            other = self._slots.read().other
            if not isinstance(error, BundleError) or other is None or other.state != "good":
                return False
        current = self._slots.failed(slot, str(error)).current
        log.error("slot %s (%s) cannot be started: %s", slot.folder, slot.version, error)
        return current is not None and current.folder != slot.folder

    def watch(self, runtime: Runtime) -> None:
        """Keep `runtime` with the slots from here on, which is about to run."""
        self._runtime = runtime
        self._thread.start()

    def reloaded(self, config: Config) -> Config:
        """With the bundle that a reload by the user takes over. Raises UserError."""
        self._check(config)
        if (current := self._slots.read().current) is None:
            raise BundleError(f"slots {self._slots.folder}: nothing is installed; use `edge-runtime bundle install`")
        self._opening = current, False
        return self._with(config, current)

    def heard(self, message: DecisionMessage | StatusMessage) -> None:
        """The runtime has published this. Loop thread."""
        self._begun = True
        self._heard.append(message)
        if (shadow := self._shadow) is not None and isinstance(message, DecisionMessage):
            shadow.give(message)

    def took(self, message: Message) -> None:
        """The runtime has taken this to decide on. Loop thread."""
        if (shadow := self._shadow) is not None:
            shadow.give(message)

    def answered(self, reason: str | None) -> None:
        """What became of a reload. The reload's thread, which must not be kept."""
        opening, self._opening = self._opening, None
        if opening is None or reason == STOPPING:
            return
        slot, own = opening
        if reason is None:
            self._running = slot
        elif own:
            self._refused = self._mark
            if slot.state == "pending":
                self._blame(slot, reason)
        self._asked = False

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)
        self._end_shadow()

    def _check(self, config: Config) -> None:
        if config.bundle != f"{SLOT}{self._slots.folder}":
            raise ConfigError("`bundle` cannot change from or to slots while running; restart instead")

    def _with(self, config: Config, slot: Slot) -> Config:
        return msgspec.structs.replace(config, bundle=str(self._slots.path(slot)))

    def _keep(self) -> None:
        runtime = self._runtime
        assert runtime is not None
        runtime.started.wait()
        while not self._stop.wait(POLL_S):
            try:
                self._look(runtime)
            except EdgeError as error:
                log.error("%s", error)
                self._stop.wait(1.0)
            except Exception:  # decisions go on, whatever is wrong with the slots
                log.exception("slots: unexpected error")
                self._stop.wait(1.0)

    def _look(self, runtime: Runtime) -> None:
        if (mark := self._stat()) != self._mark:
            self._state = self._slots.read()
            self._mark = mark
        state, running = self._state, self._running
        current = state.current
        if current is None or running is None:
            return
        if current.folder != running.folder:
            self._proof = None
            self._end_shadow()
            self._take_over(runtime, current)
            return
        self._judge_shadow(runtime, state)
        self._judge(runtime, state, current)

    def _take_over(self, runtime: Runtime, slot: Slot) -> None:
        if self._asked or self._refused == self._mark:
            return
        log.info("slot %s (%s %s, %s): taking over", slot.folder, slot.name, slot.version, slot.state)
        config = runtime.config

        def load() -> Config:
            self._opening = slot, True
            return self._with(config, slot)

        self._asked = True
        runtime.reload(load)

    def _judge(self, runtime: Runtime, state: State, current: Slot) -> None:
        if current.state == "good":
            self._proof = None
            self._heard.clear()
            return
        now_ns = self._clock.now_ns()
        if self._proof is None:
            if current.state == "pending":
                log.info("slot %s (%s): on trial for %g s", current.folder, current.version, state.trial.seconds)
            self._proof = Proof(state.trial, current, runtime.trigger, runtime.period_ms, now_ns)
        while self._heard:
            self._proof.hear(self._heard.popleft())
        if (verdict := self._proof.verdict(now_ns)) is None:
            return
        good, reason = verdict
        self._proof = None
        if good:
            self._slots.passed(current)
            log.info("slot %s (%s): good", current.folder, current.version)
        elif current.state == "pending":
            self._blame(current, reason)

    def _judge_shadow(self, runtime: Runtime, state: State) -> None:
        slot = state.shadow
        if slot is None:
            self._end_shadow()
            return
        if self._shadow is not None and self._shadow_slot is not None and self._shadow_slot.folder != slot.folder:
            self._end_shadow()
        if self._shadow is None:
            log.info("slot %s (%s): runs beside for %g s", slot.folder, slot.version, state.trial.shadow_s)
            config = self._with(runtime.config, slot)
            keys = trusted([Path(key) for key in config.trusted_keys])
            self._shadow_slot, self._shadow_until_ns = slot, 0
            self._shadow = Shadow(lambda: open_bundle(Path(config.bundle), keys, config.allow_unsigned), config.engine)
        shadow, now_ns = self._shadow, self._clock.now_ns()
        if shadow.ready and not self._shadow_until_ns:
            self._shadow_until_ns = now_ns + int(state.trial.shadow_s * 1e9)
        reason = shadow.failure
        if reason is None and (not self._shadow_until_ns or now_ns < self._shadow_until_ns):
            return
        if reason is None and not shadow.compared:
            reason = "there was no decision by both to compare"
        share = shadow.agreed / max(1, shadow.compared)
        if reason is None and share < state.trial.agreement:
            reason = (
                f"it agreed with the running one in {shadow.agreed} of {shadow.compared} decisions, "
                f"{state.trial.agreement:.0%} are asked for"
            )
        self._end_shadow()
        if reason is None:
            log.info("slot %s (%s): agreed in %.1f %% of decisions", slot.folder, slot.version, 100 * share)
            self._slots.passed(slot)
        else:
            self._blame(slot, f"beside the running one: {reason}")

    def _end_shadow(self) -> None:
        shadow, self._shadow, self._shadow_slot = self._shadow, None, None
        if shadow is not None:
            shadow.close()

    def _blame(self, slot: Slot, reason: str) -> None:
        log.error("slot %s (%s) is bad: %s", slot.folder, slot.version, reason)
        self._slots.failed(slot, reason)

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._slots.folder / STATE)  # noqa: PTH116
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def keeper_of(config: Config) -> SlotKeeper | None:
    """The keeper of the slots that `config` names, if it does."""
    if not config.bundle.startswith(SLOT):
        return None
    return SlotKeeper(Slots(Path(config.bundle.removeprefix(SLOT))))
