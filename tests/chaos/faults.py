"""The faults: a function and a row of the table each. A function does it and undoes it; what it promises meanwhile and
does not hold, it says.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from edge_runtime.recording.reader import Recording
from tests.chaos import bundles
from tests.chaos.observer import Observer
from tests.chaos.site import CLIENT, Site, slots_of, step_clock

READ_EVENTS = 1000
"""Of each recording: decoding all pictures of a long one takes its time."""
SPARE_S = 60.0
"""How long is waited for what comes by itself."""
FLOODS = (
    "sensors_at_line_rate",
    "short_texts_at_line_rate",
    "long_texts_at_line_rate",
    "odd_texts_at_line_rate",
    "garbage",
    "many_parts",
    "endless_message",
    "endless_small_parts",
    "half_messages",
    "words_for_values",
    "names_without_end",
    "connections_at_inputs",
    "bytes_at_inputs",
    "subscription_storm",
    "resubscription_storm",
    "many_subscriptions",
    "huge_subscriptions",
    "connections_at_decisions",
    "bytes_at_decisions",
    "deaf_subscribers",
)
"""Of tests/hostile those that never name the camera: what comes as its pictures is honest senders', and is counted."""


@dataclass
class Chaos:
    """A run: where, what is seen of it, and how long things take."""

    site: Site
    observer: Observer
    chance: Random
    hurry: float = 1.0
    """Faults last for this part of their time."""
    trial_s: float = 2.0
    """In which a new bundle has to prove itself."""
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of the bundles still to come: 1.0.N."""
    keys: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    broken: list[str] = field(default_factory=list)
    """Promises of single faults that did not hold, in words."""

    def last(self, shortest_s: float, longest_s: float) -> None:
        """For a while."""
        time.sleep(self.hurry * self.chance.uniform(shortest_s, longest_s))

    def promise(self, holds: bool, words: str) -> None:
        if not holds:
            self.broken.append(words)

    def comes(self, condition: Callable[[], bool], what: str, within_s: float = SPARE_S) -> None:
        """A promise that something comes to hold."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                self.promise(False, f"waited {within_s:.0f} s for {what}")
                return
            time.sleep(0.02)


def for_a_while(chaos: Chaos, shortest_s: float, **how: str) -> None:
    """What is sent of the streams is as `how` says, then good again."""
    chaos.observer.tell(**how)
    chaos.last(shortest_s, 4)
    chaos.observer.tell(**dict.fromkeys(how, "good"))


def camera_away(chaos: Chaos) -> None:
    for_a_while(chaos, 0.5, camera="away")


def camera_frozen(chaos: Chaos) -> None:
    for_a_while(chaos, 2, camera="frozen")


def camera_lying(chaos: Chaos) -> None:
    for_a_while(chaos, 0.5, camera="lying")


def sensors_insane(chaos: Chaos) -> None:
    for_a_while(chaos, 0.5, sensors="insane")


def sensors_away(chaos: Chaos) -> None:
    for_a_while(chaos, 0.5, sensors="away")


def clock_stepped(chaos: Chaos) -> None:
    """By minutes to years, there and back."""
    before = chaos.observer.jumps()
    seconds = chaos.chance.choice((60, 3600, 86_400, 300_000_000)) * chaos.chance.choice((-1, 1))
    step_clock(chaos.site, seconds)
    restarts = chaos.site.restarts()
    chaos.last(1.5, 3)
    chaos.comes(lambda: chaos.observer.jumps() != before or chaos.site.restarts() != restarts, "a jump in the status")
    step_clock(chaos.site, 0)


def disk_full(chaos: Chaos) -> None:
    """Recording stops and says so; what was written can be read; the owner makes room and starts it again."""
    disk = chaos.site.disk
    assert disk is not None
    ballast = disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    restarts = chaos.site.restarts()
    chaos.comes(
        lambda: chaos.observer.recording_stopped() or chaos.site.restarts() != restarts,
        "the word that recording stopped",
    )
    chaos.last(0, 2)
    ballast.unlink()
    _clear(chaos, disk)
    chaos.site.restart()


def subscriber_stalled(chaos: Chaos) -> None:
    """One that was heard to hear, and then stands still with its connection open."""
    with _witness(chaos, chaos.site.decisions) as stalled:
        assert stalled.stdout is not None
        stalled.stdout.readline()
        stalled.send_signal(signal.SIGSTOP)
        chaos.last(2, 5)


def process_stopped(chaos: Chaos) -> None:
    """For less than its watchdog waits."""
    chaos.site.signal(signal.SIGSTOP)
    chaos.last(0.2, 3)
    chaos.site.signal(signal.SIGCONT)


def process_hung(chaos: Chaos) -> None:
    """For ever: the watchdog has to end it."""
    restarts = chaos.site.restarts()
    chaos.site.signal(signal.SIGSTOP)
    chaos.comes(lambda: chaos.site.restarts() > restarts, "the watchdog")


def killed(chaos: Chaos) -> None:
    restarts = chaos.site.restarts()
    chaos.site.signal(signal.SIGKILL)
    chaos.comes(lambda: chaos.site.restarts() > restarts, "another start")


def restarted(chaos: Chaos) -> None:
    """By its owner, in an orderly way."""
    chaos.site.restart()


def good_bundle(chaos: Chaos) -> None:
    """It is taken over, and proves itself, unless another fault is in its way: then the old one is back."""
    version = _version(chaos)
    with _bundle(chaos, version) as path:
        done = _install(chaos, path)
        chaos.promise(done.returncode == 0, f"{version} was not installed: {done.stderr}")
    chaos.comes(lambda: _state(chaos, version) in ("good", "bad", ""), f"{version}'s verdict")


def bad_bundle(chaos: Chaos) -> None:
    """It passes for good until it meets a camera: too slow, or no numbers, or too late for what is asked."""
    version = _version(chaos)
    kind = chaos.chance.choice(("slow", "failing", "late"))
    change = {"slow": ("fusion", bundles.slow), "failing": ("vision", bundles.failing)}.get(kind)
    before = slots_of(chaos.site).current
    with _bundle(chaos, version, change) as path:
        done = _install(chaos, path, *(("--latency-ms", "0.01") if kind == "late" else ()))
        chaos.promise(done.returncode == 0, f"{version} was not installed: {done.stderr}")
    chaos.comes(lambda: _state(chaos, version) in ("good", "bad", ""), f"{version}'s verdict")
    chaos.promise(_state(chaos, version) == "bad", f"{version} ({kind}) is {_state(chaos, version)}")
    after = slots_of(chaos.site).current
    if before is not None and before.state == "good" and after is not None:
        chaos.promise(after.folder == before.folder, f"{after.version} is current, {before.version} was before")


def torn_bundle(chaos: Chaos) -> None:
    """Refused, and nothing has changed."""
    version = _version(chaos)
    with _bundle(chaos, version) as path:
        torn, what = bundles.tear(path, chaos.chance)
        before = _installed(chaos)
        done = _install(chaos, torn)
        chaos.promise(done.returncode == 2, f"{version}, {what}: exit code {done.returncode}: {done.stderr}")
        chaos.promise(len(done.stderr.strip().splitlines()) == 1, f"{version}, {what}: {done.stderr!r}")
        chaos.promise(_installed(chaos) == before, f"{version}, {what}: the slots have changed")


def install_killed(chaos: Chaos) -> None:
    """SIGKILL in the middle of an installation: it was or it was not."""
    version = _version(chaos)
    with _bundle(chaos, version) as path:
        _install(chaos, path, kill_after_s=chaos.chance.uniform(0.3, 2.0))
    chaos.comes(lambda: _state(chaos, version) in ("good", "bad", ""), f"{version}'s verdict")


def rolled_back(chaos: Chaos) -> None:
    """By hand, where there is a good one to go back to."""
    target = slots_of(chaos.site).other
    if target is None or target.state != "good":
        good_bundle(chaos)
        return
    done = chaos.site.command("bundle", "rollback", "--slots", chaos.site.path(chaos.site.slots))
    chaos.promise(done.returncode == 0, f"rollback: {done.stderr}")
    chaos.comes(lambda: chaos.observer.version() == target.version, f"{target.version} to decide again")


def keys_rotated(chaos: Chaos) -> None:
    """The runtime's and a client's, who goes on sending and hearing with the new ones; then the old ones end."""
    site, number = chaos.site, next(chaos.keys)
    fresh = site.work / f"{number}.key.toml"
    folder = site.path(site.keys)
    for line in (("rotate", folder), ("rotate", folder, "--client", CLIENT, "--out", site.path(fresh))):
        done = site.command("keys", *line)
        chaos.promise(done.returncode == 0, f"keys {' '.join(line)}: {done.stderr}")
    own = chaos.observer.own_keys(fresh, number)
    # Both keys are good within the second in which the folder is looked at again.
    with _witness(chaos, site.keyed_decisions, own) as hearing:
        assert hearing.stdout is not None
        chaos.comes(lambda: b'"seq"' in hearing.stdout.readline(), "a decision under the new keys")  # type: ignore[union-attr]
    chaos.observer.tell(keys=str(own))
    taken = chaos.observer.now_ns()
    chaos.comes(lambda: chaos.observer.heard_from("position", taken), "readings under the new keys")
    for line in (("rotate", folder, "--client", CLIENT, "--finish"), ("rotate", folder, "--finish")):
        done = site.command("keys", *line)
        chaos.promise(done.returncode == 0, f"keys {' '.join(line)}: {done.stderr}")


def flooded(chaos: Chaos) -> None:
    """By one to three of tests/hostile, at either door."""
    names = chaos.chance.sample(FLOODS, chaos.chance.randint(1, 3))
    seconds = max(0.5, chaos.hurry * chaos.chance.uniform(2, 4))
    site = chaos.site
    where = [
        chaos.chance.choice((site.inputs, site.keyed_inputs)),
        chaos.chance.choice((site.decisions, site.keyed_decisions)),
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.attacks", name, *where, "0", str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for name in names
    ]  # fmt: skip
    try:
        for process in running:
            assert process.stdin is not None and process.stdout is not None
            process.stdout.readline()
            process.stdin.write(b"\n")
            process.stdin.flush()
        time.sleep(seconds)
    finally:
        for process in running:
            process.kill()
            process.communicate()


@dataclass(frozen=True)
class Fault:
    """A row: what is done, and what of the service it takes up, so that no other fault may have it at once."""

    do: Callable[[Chaos], None]
    words: str
    takes: str
    weight: float = 1.0
    needs: Callable[[Site], bool] = lambda site: True

    @property
    def name(self) -> str:
        return self.do.__name__.replace("_", " ")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(camera_away, "no frame for up to 4 s", "camera"),
        Fault(camera_frozen, "the same frame, freshly stamped", "camera"),
        Fault(camera_lying, "stamps of the future and the past, frames that are none", "camera"),
        Fault(sensors_insane, "words, nulls, infinities", "sensors"),
        Fault(sensors_away, "no reading of the required channels", "sensors"),
        Fault(
            clock_stepped,
            "the wall clock by a minute to ten years, and back",
            "clock",
            needs=lambda s: s.clock is not None,
        ),
        Fault(disk_full, "no room for the recording", "process", 0.7, lambda s: s.disk is not None),
        Fault(subscriber_stalled, "a subscriber that stands still", "subscriber"),
        Fault(process_stopped, "SIGSTOP, SIGCONT within 3 s", "process"),
        Fault(process_hung, "SIGSTOP for ever: the watchdog", "process", 0.3, lambda s: s.disk is not None),
        Fault(killed, "SIGKILL", "process", 1.5),
        Fault(restarted, "an orderly restart", "process", 0.7),
        Fault(good_bundle, "install of a newer version", "slots", 1.5),
        Fault(bad_bundle, "install of one that is too slow, fails, or is too late", "slots", 1.5),
        Fault(torn_bundle, "install of what is cut, changed or not signed", "slots"),
        Fault(install_killed, "SIGKILL to an installation", "slots"),
        Fault(rolled_back, "back to the version before, by hand", "slots", 0.5),
        Fault(keys_rotated, "new keys of both sides, the old ones end", "keys"),
        Fault(flooded, "one to three floods of `make hostile`, at doors with and without keys", "floods", 2.0),
    )
}


def burst(chance: Random, site: Site, most: int) -> list[Fault]:
    """One fault, or several that do not get into each other's way."""
    possible = [fault for fault in FAULTS.values() if fault.needs(site)]
    chosen: list[Fault] = []
    for _ in range(chance.choice((1, 1, 1, *range(1, most + 1)))):
        fault = chance.choices(possible, [one.weight for one in possible])[0]
        if all(fault.takes != other.takes for other in chosen):
            chosen.append(fault)
    return chosen


def _version(chaos: Chaos) -> str:
    return f"1.0.{next(chaos.versions)}"


@contextlib.contextmanager
def _bundle(chaos: Chaos, version: str, change: tuple[str, bundles.Change] | None = None) -> Iterator[Path]:
    folder = chaos.site.work / version
    yield bundles.write_bundle(folder, version, chaos.site.secret, change)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".tar").unlink(missing_ok=True)


def _install(
    chaos: Chaos, path: Path, *more: str, kill_after_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    site = chaos.site
    where = ("--slots", site.path(site.slots), "--key", site.path(site.key), "--trial", str(chaos.trial_s))
    return site.command("bundle", "install", *where, *more, site.path(path), kill_after_s=kill_after_s)


def _installed(chaos: Chaos) -> Sequence[str]:
    return [slot.folder for slot in slots_of(chaos.site).slots]


def _state(chaos: Chaos, version: str) -> str:
    """Of that version's slot; empty where it has none."""
    return next((slot.state for slot in slots_of(chaos.site).slots if slot.version == version), "")


@contextlib.contextmanager
def _witness(chaos: Chaos, endpoint: str, *keys: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A subscriber process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.witness", endpoint, *map(str, keys)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _clear(chaos: Chaos, disk: Path) -> None:
    """All recordings: each must be readable from its beginning on."""
    for path in sorted(disk.glob("*.mcap")):
        if path.stat().st_size:
            try:
                count = sum(1 for _ in itertools.islice(Recording(path).events(), READ_EVENTS))
                chaos.promise(count > 0, f"{path.name} holds nothing")
            except Exception as error:
                chaos.promise(False, f"{path.name} cannot be read: {error}")
        path.unlink()
