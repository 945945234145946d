"""What a run's figures are, and the promises that must hold over all of it. Pure: lists in, figures and words out.

All times are monotonic nanoseconds: of one clock, whatever processes read it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.hostile.judge import SLACK_MS

CAMERA = "camera.front"
FROZEN_AFTER = 30
"""Times that a frame may be shown before it is one of a frozen camera's (`frozen_after` of the vehicle bundle)."""
FROZEN_SLACK = 2
COUNTED = (CAMERA, "position")
"""Streams that nobody but the honest senders sends."""
TAKE_OVER_S = 5.0
"""A bundle that is current no more may decide for so long, while the next one's engines open."""
IN_FLIGHT_S = 0.5
"""How long before the last word of a process that was killed messages may have been on their way to it."""
HEALTHY_S = 5.0


@dataclass
class Seen:
    """From outside, in the order in which it came."""

    decisions: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, list[int]] = field(default_factory=dict)
    """By stream, when messages were sent that a connection took."""
    current: list[tuple[int, str, str, str]] = field(default_factory=list)
    """When it was seen first, and the current slot's digest, version and state."""


@dataclass(frozen=True)
class Burst:
    """Faults that overlapped."""

    faults: tuple[str, ...]
    begin_ns: int
    end_ns: int
    """Of the last of them."""
    healthy_ns: int | None
    """When it was heard to be healthy again; None where it was not within the time that is waited for that."""
    ailing: str = ""
    """What it said last that was amiss before that."""
    broken: tuple[str, ...] = ()
    """Promises of its faults that did not hold."""

    @property
    def recovery_s(self) -> float:
        return float("inf") if self.healthy_ns is None else (self.healthy_ns - self.end_ns) / 1e9


@dataclass(frozen=True)
class Life:
    """What was heard of one process."""

    begin_ns: int
    statuses: Sequence[Mapping[str, Any]]

    @property
    def last_ns(self) -> int:
        return int(self.statuses[-1]["published_ns"])

    def captured(self, stream: str) -> int:
        """As its last word has it."""
        told = self.statuses[-1]["streams"].get(stream)
        return 0 if told is None else int(told["captured"])


@dataclass(frozen=True)
class Row:
    """All bursts in which a fault had a part."""

    fault: str
    tried: int
    lost: int
    """After how many something that is promised did not hold."""
    alone: int
    """How many of them it was the only one."""
    silence_s: float | None
    """The longest between two decisions in the bursts of which it was the only fault, and until all was well."""
    recovery_s: float | None
    """The longest until it was heard to be healthy, of the same."""


def lives(statuses: Sequence[Mapping[str, Any]]) -> list[Life]:
    """By when the process began, in that order."""
    found: list[tuple[int, list[Mapping[str, Any]]]] = []
    for one in statuses:
        status = one["status"]
        begin_ns = status["published_ns"] - int(status["uptime_s"] * 1e9)
        if not found or abs(begin_ns - found[-1][0]) > 100_000_000:
            found.append((begin_ns, []))
        found[-1][1].append(status)
    return [Life(begin_ns, told) for begin_ns, told in found]


def unbalanced(statuses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Accounts that do not add up, within a status or from one to the next."""
    faults = []
    for life in lives(statuses):
        before: Mapping[str, int] = {}
        for status in life.statuses:
            if not status["conserved"]:
                faults.append(f"status {status['seq']} says that its accounts do not balance")
            for name, stream in status["streams"].items():
                left = stream["captured"] - stream["decided"] - sum(stream["dropped"].values()) - stream["in_flight"]
                if left:
                    faults.append(f"{left} messages of {name} are in no account")
                if stream["captured"] < before.get(name, 0):
                    faults.append(f"{name}: {stream['captured']} captured, {before[name]} a second before")
            before = {name: stream["captured"] for name, stream in status["streams"].items()}
    return faults


def missing(seen: Seen) -> list[str]:
    """Messages of honest senders that no process has accounted for, and that no end of a process explains: on their way
    to one that was killed, from IN_FLIGHT_S before its last word to the begin of the next.
    """
    all_lives = lives(seen.statuses)
    faults = []
    for stream in COUNTED:
        times = seen.sent.get(stream, [])
        counted = sum(life.captured(stream) for life in all_lives)
        explained = sum(
            bisect_right(times, after.begin_ns) - bisect_left(times, before.last_ns - int(IN_FLIGHT_S * 1e9))
            for before, after in pairwise(all_lives)
        )
        if counted > len(times):
            faults.append(f"{counted} messages of {stream} were counted, {len(times)} sent")
        if len(times) - counted > explained:
            faults.append(
                f"{len(times) - counted} of {len(times)} messages of {stream} are missing; ends explain {explained}"
            )
    return faults


def gaps(seen: Seen) -> list[str]:
    """Decisions that were made and not heard, between two that were heard of the same process."""
    faults = []
    for before, after in pairwise(seen.decisions):
        if after["seq"] > before["seq"] + 1 and not _between(seen, before["published_ns"], after["published_ns"]):
            faults.append(f"decisions {before['seq'] + 1} to {after['seq'] - 1} were not heard")
    return faults


def _between(seen: Seen, first_ns: int, last_ns: int) -> bool:
    """Whether a process began between two moments."""
    return any(first_ns < life.begin_ns <= last_ns for life in lives(seen.statuses))


def stale(decisions: Sequence[Mapping[str, Any]], max_age_ms: Mapping[str, float]) -> list[tuple[int, str]]:
    """When and what: decisions of the model on an input that is older than they say, or than its stream allows, or that
    a frozen camera shows.
    """
    found = []
    for one in decisions:
        if one["source"] != "model":
            continue
        for stream, (mark, age_ms) in one["inputs"].items():
            if (said := re.fullmatch(r"(?:f(\d+))?t(\d+)", str(mark))) is None:
                continue
            over_ms = (one["captured_ns"] - int(said[2])) / 1e6 - min(age_ms, max_age_ms[stream])
            if over_ms > SLACK_MS:
                found.append((one["published_ns"], f"{stream} is {over_ms:.0f} ms older than said or allowed"))
            if said[1] is not None and int(said[1]) > FROZEN_AFTER + FROZEN_SLACK:
                found.append((one["published_ns"], f"{stream} shows the same for the {said[1]}th time"))
    return found


def wrong_versions(seen: Seen) -> list[tuple[int, str]]:
    """When and what: decisions of a bundle that was not current shortly before, or that say one version and answer with
    the labels of another.
    """
    found = []
    times = [at_ns for at_ns, *_ in seen.current]
    for one in seen.decisions:
        at_ns = one["published_ns"]
        if not one["label"].endswith(f"@{one['version']}"):
            found.append((at_ns, f"{one['version']} says {one['label']!r}"))
        # The slots are looked at a few times a second: what was written just before is seen just after.
        last = bisect_right(times, at_ns + 1_000_000_000)
        first = bisect_right(times, at_ns - int(TAKE_OVER_S * 1e9)) - 1
        current = {digest for _, digest, *_ in seen.current[max(0, first) : last]}
        if one["bundle"] not in current:
            found.append((at_ns, f"{one['version']} decides, and was not current"))
    return found


def silence_s(decisions: Sequence[Mapping[str, Any]], begin_ns: int, end_ns: int) -> float:
    """The longest time between two decisions that lies, in part at least, between two moments."""
    heard = [one["heard_ns"] for one in decisions]
    first = max(0, bisect_left(heard, begin_ns) - 1)
    last = bisect_right(heard, end_ns) + 1
    part = heard[first:last]
    return max((after - before for before, after in pairwise(part)), default=end_ns - begin_ns) / 1e9


def broken_in(burst: Burst, offences: Sequence[tuple[int, str]], limit_s: float) -> list[str]:
    """What did not hold from a burst's begin until it was healthy again."""
    until_ns = burst.end_ns + int(1e9 * min(burst.recovery_s, limit_s))
    words = [what for at_ns, what in offences if burst.begin_ns <= at_ns <= until_ns]
    if burst.recovery_s > limit_s:
        words.append(f"healthy after {burst.recovery_s:.1f} s ({burst.ailing or 'silent'})")
    return [*burst.broken, *words]


def rows(bursts: Sequence[Burst], seen: Seen, offences: Sequence[tuple[int, str]], limit_s: float) -> list[Row]:
    """A row for each fault that was tried, by name."""
    decisions = list(seen.decisions)
    table = []
    for fault in sorted({name for burst in bursts for name in burst.faults}):
        mine = [burst for burst in bursts if fault in burst.faults]
        alone = [burst for burst in mine if len(burst.faults) == 1]
        whole = [burst for burst in alone if burst.healthy_ns is not None]
        table.append(
            Row(
                fault,
                tried=len(mine),
                lost=sum(bool(broken_in(burst, offences, limit_s)) for burst in mine),
                alone=len(alone),
                silence_s=max((silence_s(decisions, one.begin_ns, one.healthy_ns) for one in whole), default=None),  # type: ignore[arg-type]
                recovery_s=max((burst.recovery_s for burst in alone), default=None),
            )
        )
    return table


@dataclass(frozen=True)
class Verdict:
    """Of a whole run."""

    rows: Sequence[Row]
    lives: int
    decisions: int
    by_model: int
    sent: Mapping[str, int]
    counted: Mapping[str, int]
    longest_silence_s: float
    broken: Sequence[str]
    """Each promise that did not hold, in words."""


def judge(
    seen: Seen, bursts: Sequence[Burst], max_age_ms: Mapping[str, float], log: str = "", limit_s: float = HEALTHY_S
) -> Verdict:
    """Of what was seen of a run that has come to its end, all messages taken."""
    old, wrong = stale(seen.decisions, max_age_ms), wrong_versions(seen)
    found = lives(seen.statuses)
    broken = [f"accounts: {words}" for words in (*unbalanced(seen.statuses), *missing(seen), *gaps(seen))]
    broken += [f"stale: {words}" for _, words in old] + [f"wrong version: {words}" for _, words in wrong]
    for number, burst in enumerate(bursts, 1):
        broken += [f"{number}, {' and '.join(burst.faults)}: {words}" for words in broken_in(burst, [], limit_s)]
    if traces := log.count("Traceback") + log.count("unexpected error"):
        broken.append(f"{traces} traces in the log")
    return Verdict(
        rows=rows(bursts, seen, [*old, *wrong], limit_s),
        lives=len(found),
        decisions=len(seen.decisions),
        by_model=sum(one["source"] == "model" for one in seen.decisions),
        sent={stream: len(seen.sent.get(stream, [])) for stream in COUNTED},
        counted={stream: sum(life.captured(stream) for life in found) for stream in COUNTED},
        longest_silence_s=silence_s(seen.decisions, 0, 1 << 62),
        broken=broken,
    )
