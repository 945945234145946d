"""Bundles on a device, two at a time: the one that runs, and the one that it goes back to.

A folder holds `state.json` and a folder for each of the two. What runs is what `state.json` names: one file, replaced
by a rename, so that the switch, the states of both and the reasons are never of two minds, whenever the power goes. (A
symbolic link would say which slot runs, and leave its state to a second file.) A bundle is verified, copied beside the
others, synced, verified where it lies, and only then named.

States, in RAUC's words: `good` has proven itself; `pending` is on trial; `bad` has failed, or was rolled back.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.durable import Disk, disk_of, remove_tree, replace_file
from edge_runtime.errors import BundleError, UserError
from edge_runtime.plain_file import read_plain

STATE = "state.json"
STAGING = ".staging"
LOCK, INSTALL_LOCK = ".lock", ".install-lock"
MAX_STATE_BYTES = 1 << 20
MAX_EVENTS = 50
LOCK_S = 5.0
MAX_STARTS = 3
"""A bundle on trial that was started so often and has not proven itself is bad."""
TRIAL_S = 30.0
TRIAL = "report/trial.json"
"""In a bundle: the trial that its recipe asks for. It stays when a bundle's other reports are left out."""
SlotState = Literal["good", "bad", "pending"]
_VERDICTS = ("good", "bad", "rolled back")
"""Events that say how a trial ended."""


class Trial(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device asks of a bundle that it has installed before it is `good`, unless it is told otherwise there. What
    a recipe says of it goes with the bundle, as `report/trial.json`."""

    seconds: Annotated[float, Meta(gt=0)] = TRIAL_S
    """Within this time it has to decide, by the model."""
    latency_ms: Annotated[float, Meta(gt=0)] | None = None
    """99 % of its decisions within this time from capture on; unless given, half of them within one period of the
    stream that calls for them."""
    rate: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Of the messages that call for a decision, so many must be answered by the model."""
    shadow_s: Annotated[float, Meta(ge=0)] = 0.0
    """For so long it first decides beside the running one, on the same inputs, unheard; 0 = not at all."""
    agreement: Annotated[float, Meta(ge=0, le=1)] = 0.9
    """Part of the decisions beside each other that must be the same."""


def stated_trial(bundle: Bundle) -> Trial:
    """The trial that the gate's report in `bundle` asks for, or the usual one. Raises BundleError."""
    if TRIAL not in bundle.manifest.files:
        return Trial()
    try:
        return msgspec.json.decode(bundle.read(TRIAL), type=Trial)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {bundle.path}: {TRIAL} is no trial that this runtime knows ({error})") from None


class Slot(Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle that is installed."""

    folder: Annotated[str, Meta(pattern=r"^[0-9]+-[0-9a-f]{12}$")]
    """Its name; no two installations have had the same."""
    name: str
    version: str
    digest: str
    signed_by: str | None
    state: SlotState
    installed: str
    """RFC 3339."""
    reason: str = ""
    """Why it is bad."""


class Event(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that became of a slot."""

    time: str
    what: Literal["installed", "good", "bad", "rolled back", "started"]
    version: str
    digest: str
    reason: str = ""


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """`state.json`."""

    format: Literal[1] = 1
    count: int = 0
    """Installations so far."""
    current: Slot | None = None
    """The one that runs, and that the next start takes."""
    other: Slot | None = None
    """The one before, to go back to; while it is `pending`, the next one, which runs beside the current one unheard."""
    trial: Trial = Trial()
    """Of the one that is `pending`."""
    starts: int = 0
    """Of the one that is `pending`, as the current one."""
    events: tuple[Event, ...] = ()
    """The last ones."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in (self.current, self.other) if slot is not None)

    @property
    def shadow(self) -> Slot | None:
        """The one that is to run beside the current one, unheard."""
        return self.other if self.other is not None and self.other.state == "pending" else None

    @property
    def pending(self) -> Slot | None:
        """The one that is on trial, or is to be."""
        return next((slot for slot in self.slots if slot.state == "pending"), None)

    def why_bad(self, digest: str) -> str | None:
        """Why the bundle was bad here, if it was when it was last judged; as far back as events go."""
        if slot := next((slot for slot in self.slots if slot.digest == digest), None):
            return slot.reason if slot.state == "bad" else None
        verdicts = [event for event in self.events if event.digest == digest and event.what in _VERDICTS]
        return verdicts[-1].reason if verdicts and verdicts[-1].what != "good" else None


def installed(state: State, slot: Slot, trial: Trial) -> State:
    """`slot` is there, whole: it is on trial from the next start or reload on, or runs beside the current one first."""
    good = next((one for one in state.slots if one.state == "good"), None)
    fresh = replace(state, count=state.count + 1, trial=trial, starts=0)
    if good is not None and trial.shadow_s > 0:
        fresh = replace(fresh, current=good, other=slot)
    elif good is None and state.current is not None:
        why = state.current.reason or "another was installed before it had proven itself"
        fresh = replace(fresh, current=slot, other=replace(state.current, state="bad", reason=why))
    else:
        fresh = replace(fresh, current=slot, other=good)
    return _told(fresh, "installed", slot)


def started(state: State) -> State:
    """A process is about to run the current one. One on trial that has been started too often has failed."""
    current = state.current
    if current is None or current.state != "pending":
        return state
    if state.starts >= MAX_STARTS:
        return failed(state, current.folder, f"it was started {state.starts} times and has not proven itself")
    return _told(replace(state, starts=state.starts + 1), "started", current)


def passed(state: State, folder: str) -> State:
    """The one in `folder` has proven itself: beside the current one, whose place it takes, or as that. A bad one is the
    current one only where no other is good, and may make up for it.
    """
    current, other = state.current, state.other
    if other is not None and other is state.shadow and other.folder == folder:
        return replace(state, current=other, other=current, starts=0)
    if current is not None and current.folder == folder and current.state != "good":
        good = replace(current, state="good", reason="")
        return _told(replace(state, current=good), "good", good)
    return state


def failed(state: State, folder: str, reason: str) -> State:
    """The one in `folder` is bad. The other takes its place if it is good; with no good one it stays."""
    current, other = state.current, state.other
    if other is not None and other.folder == folder:
        bad = replace(other, state="bad", reason=reason)
        return _told(replace(state, other=bad), "bad", bad, reason)
    if current is None or current.folder != folder or current.state == "bad":
        return state
    bad = replace(current, state="bad", reason=reason)
    back = other is not None and other.state == "good"
    state = replace(state, current=other, other=bad) if back else replace(state, current=bad)
    return _told(state, "bad", bad, reason)


def rolled_back(state: State) -> State:
    """The one before takes the current one's place. Raises UserError where there is none that is good."""
    current, other = state.current, state.other
    if current is not None and other is not None and other is state.shadow:
        bad = replace(other, state="bad", reason="rolled back by hand")
        return _told(replace(state, other=bad), "rolled back", bad, bad.reason)
    if current is None or other is None or other.state != "good":
        why = "there is no other" if other is None else f"{other.version} is bad: {other.reason}"
        raise UserError(f"rollback: there is nothing good to go back to ({why}); install a bundle")
    bad = replace(current, state="bad", reason="rolled back by hand")
    return _told(replace(state, current=other, other=bad), "rolled back", bad, bad.reason)


class Slots:
    """The slots in one folder. Processes may use it at once: each change is made under a lock.

    All methods raise UserError where the folder cannot be read or written.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self._disk = disk or disk_of(folder)

    def read(self) -> State:
        """The state; an empty one where nothing was installed. Raises BundleError if the file is damaged."""
        try:
            raw = read_plain(self.folder / STATE, MAX_STATE_BYTES)
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise UserError(f"slots {self.folder}: {STATE} cannot be read ({error.strerror})") from None
        try:
            return msgspec.json.decode(raw, type=State)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BundleError(
                f"slots {self.folder}: {STATE} is damaged ({error}); remove it and install a bundle again"
            ) from None

    def path(self, slot: Slot) -> Path:
        return self.folder / slot.folder

    @contextmanager
    def own_folder(self, name: str) -> Iterator[Path]:
        """The folder `name` in this one, for what else belongs to these slots: made, and held against other processes.

        What it is used for is to be done by the `hand` of whom the slots belong to.
        """
        with self._locked(f"{name}-lock", wait=False):
            folder = self.folder / name
            try:
                self._disk.make_folders(folder)
            except OSError as error:
                raise UserError(f"slots {self.folder}: {name} cannot be made ({error.strerror})") from None
            yield folder

    def hand(self) -> AbstractContextManager[None]:
        """Within it this process is the user whom the folder belongs to, where it is root."""
        return self._disk.hand()

    def install(
        self,
        source: Path,
        trusted_keys: Sequence[Path] = (),
        allow_unsigned: bool = False,
        trial: Callable[[Bundle], Trial] = stated_trial,
        downgrade: bool = False,
        check: Callable[[Bundle], None] = lambda bundle: None,
    ) -> Slot:
        """Verify the bundle at `source`, copy it here, and have it run on trial from the next start on.

        `trial` says what it has to do, `check` may refuse it further. `downgrade` takes a version that is not above the
        current one, and one that has failed here before. Raises UserError; then nothing has changed.
        """
        bundle = open_bundle(source, trusted_keys, allow_unsigned)
        check(bundle)
        limits = trial(bundle)
        with self._locked(INSTALL_LOCK, wait=False):
            state = self.read()
            if not downgrade:
                _refuse_downgrade(state, bundle)
            folder = f"{state.count}-{bundle.digest[:12]}"
            self._stage(bundle, folder, trusted_keys, allow_unsigned)
            slot = Slot(
                folder,
                bundle.manifest.name,
                bundle.manifest.version,
                bundle.digest,
                bundle.signed_by,
                "pending",
                _now(),
            )
            after = self._change(lambda state: installed(state, slot, limits))
            self._tidy(after)
        return slot

    def roll_back(self) -> State:
        """Go back to the one before, by hand. Raises UserError where none is good."""
        return self._change(rolled_back)

    def boot(self) -> Slot:
        """The slot that a process which begins has to take. Raises BundleError where nothing is installed."""
        current = self._change(started).current
        if current is None:
            raise BundleError(f"slots {self.folder}: nothing is installed; use `edge-runtime bundle install`")
        return current

    def passed(self, slot: Slot) -> State:
        """`slot` has proven itself."""
        return self._change(lambda state: passed(state, slot.folder))

    def failed(self, slot: Slot, reason: str) -> State:
        """`slot` has not; whichever is good takes its place."""
        return self._change(lambda state: failed(state, slot.folder, reason))

    def _change(self, change: Callable[[State], State]) -> State:
        with self._locked(LOCK):
            before = self.read()
            after = change(before)
            if after != before:
                encoded = msgspec.json.format(msgspec.json.encode(after), indent=2) + b"\n"
                try:
                    replace_file(self._disk, self.folder / STATE, encoded)
                except OSError as error:
                    raise UserError(f"slots {self.folder}: {STATE} cannot be written ({error.strerror})") from None
        return after

    def _stage(self, bundle: Bundle, folder: str, keys: Sequence[Path], allow_unsigned: bool) -> None:
        """Copy what was verified to `folder`, synced, and verify it there. Raises UserError, with nothing left."""
        staging = self.folder / STAGING
        try:
            if staging.exists():
                remove_tree(self._disk, staging)
            folders = [staging]
            self._disk.make_folder(staging)
            for name, data in bundle.contents():
                path = staging / name
                for parent in reversed(path.relative_to(staging).parents):
                    if (staging / parent) not in folders:
                        self._disk.make_folder(staging / parent)
                        folders.append(staging / parent)
                self._disk.write(path, data)
                self._disk.sync(path)
            for one in reversed(folders):
                self._disk.sync(one)
            staged = open_bundle(staging, keys, allow_unsigned)
            if (staged.digest, staged.signed_by) != (bundle.digest, bundle.signed_by):
                raise BundleError(f"bundle {bundle.path}: it was changed while it was being installed; try again")
            if (self.folder / folder).exists():  # from an installation that was cut short before it was named
                remove_tree(self._disk, self.folder / folder)
            self._disk.rename(staging, self.folder / folder)
            self._disk.sync(self.folder)
        except (OSError, UserError) as error:
            if staging.exists():
                remove_tree(self._disk, staging)
            if isinstance(error, OSError):
                raise UserError(f"slots {self.folder}: the bundle cannot be copied there ({error.strerror})") from None
            raise

    def _tidy(self, state: State) -> None:
        """Remove folders of slots that are none any more. What cannot be removed is left to the next installation."""
        kept = {slot.folder for slot in state.slots}
        for entry in sorted(self.folder.iterdir()):
            if re.fullmatch(r"[0-9]+-[0-9a-f]{12}", entry.name) and entry.name not in kept:
                try:
                    remove_tree(self._disk, entry)
                except OSError:
                    continue

    @contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[None]:
        try:
            self._disk.make_folders(self.folder)
            descriptor = self._disk.lock_file(self.folder / name)
        except OSError as error:
            raise UserError(f"slots {self.folder}: cannot be used ({error.strerror}); check the path") from None
        try:
            self._lock(descriptor, LOCK_S if wait else 0.0)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, timeout_s: float) -> None:
        """A process that stands still while it holds the lock holds up nobody for ever."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(f"slots {self.folder}: another installation is under way; wait for it") from None
            time.sleep(0.01)


def version_key(version: str) -> tuple[object, ...] | None:
    """What orders versions as Semantic Versioning 2.0 does (https://semver.org/#spec-item-11), with any number of
    numbers; None for what is no such version.
    """
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18}){0,9})(?:-([0-9A-Za-z.-]{1,200}))?(?:\+[0-9A-Za-z.-]*)?", version)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    before = tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in (found[2] or "").split(".") if part
    )
    return tuple(numbers), not before, before


def _refuse_downgrade(state: State, bundle: Bundle) -> None:
    version, current = bundle.manifest.version, state.current
    if (reason := state.why_bad(bundle.digest)) is not None:
        raise UserError(f"install: {version} was bad here: {reason}; --downgrade installs it all the same")
    if current is None:
        return
    if current.digest == bundle.digest:
        raise UserError(f"install: {version} is installed already, and runs or is about to")
    if current.state == "bad":
        return
    new, old = version_key(version), version_key(current.version)
    if new is None or old is None:
        raise UserError(
            f"install: {version!r} and the current {current.version!r} cannot be told to be the newer (1.2.3 is a "
            "version); --downgrade installs it all the same"
        )
    if new <= old:
        raise UserError(
            f"install: downgrade from {current.version} to {version} refused; versions only go up, "
            "--downgrade installs it all the same"
        )


def _told(
    state: State, what: Literal["installed", "good", "bad", "rolled back", "started"], slot: Slot, reason: str = ""
) -> State:
    event = Event(_now(), what, slot.version, slot.digest, reason)
    return replace(state, events=(*state.events, event)[-MAX_EVENTS:])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
