"""What a part's figures are, and the rules that they must keep. Pure: lists in, figures and broken rules out."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.hostile.bombs import FORGED
from tests.hostile.service import LIMIT_MB, Sample

CAMERA = "camera.front"
SLACK_MS = 250.0
"""An input may be this much older than said before it counts as stale: time on the wire, and in short queues."""
MAX_GROWTH_MB = 512
MAX_LOG_LINES_S = 5.0
MAX_LOG_LINE = 1000
MAX_QUIET_CORES = 0.5
"""Above the undisturbed use, where an attack must cost nothing to speak of."""


@dataclass(frozen=True)
class Heard:
    """What was seen between two moments."""

    seconds: float
    decisions: Sequence[Mapping[str, Any]]
    samples: Sequence[Sample]
    frames: int = 0
    """Of the honest camera."""
    log: Sequence[str] = ()
    status: Mapping[str, Any] | None = None
    """The first status after it."""
    aftermath: Sequence[Mapping[str, Any]] = ()
    """Decisions from its end to that status."""
    lost: int = 0
    repeated: int = 0

    def latencies_ms(self) -> list[float]:
        """Of decisions on honest frames, which carry a mark."""
        return [
            one["latency_ms"]
            for one in self.decisions
            if one["triggered"] and str(one["inputs"].get(CAMERA, [""])[0]).startswith("t")
        ]


@dataclass(frozen=True)
class Figures:
    """One part. Milliseconds, MiB, CPU cores, and counts."""

    part: str
    seconds: float
    frames_hz: float
    """Of the honest camera."""
    decisions_hz: float
    honest_hz: float
    """Decisions on honest frames."""
    p50: float
    p99: float
    undisturbed_p50: float
    undisturbed_p99: float
    stale: Mapping[str, Sequence[float]]
    """See `stale_inputs`."""
    safe: Mapping[str, int]
    """Safe decisions by reason."""
    balanced: bool
    peak_mb: float
    undisturbed_mb: float
    cores: float
    undisturbed_cores: float
    log_lines_s: float
    longest_line: int
    forged: tuple[str, ...]
    """Log lines that a sender wrote, or that hold control characters."""
    lost: int
    repeated: int
    alive: bool
    sent: int
    sources_down: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    broken: tuple[str, ...] = field(default=())
    """Rules that it breaks, in words."""


def stale_inputs(decisions: Sequence[Mapping[str, Any]], max_age_ms: Mapping[str, float]) -> dict[str, list[float]]:
    """By stream, how much older inputs were that were decided on than the decision says, or than their stream allows.

    Milliseconds; what is within SLACK_MS is not stale.
    """
    found: dict[str, list[float]] = {}
    for one in decisions:
        for stream, (mark, age_ms) in one["inputs"].items():
            if isinstance(mark, str) and mark.startswith("t") and mark[1:].isdigit():
                true_ms = (one["captured_ns"] - int(mark[1:])) / 1e6
                over_ms = true_ms - min(age_ms, max_age_ms[stream])
                if over_ms > SLACK_MS:
                    found.setdefault(stream, []).append(over_ms)
    return found


def cores(samples: Sequence[Sample]) -> float:
    """CPU seconds a second."""
    if len(samples) < 2:
        return 0.0
    spent = samples[-1].cpu_s - samples[0].cpu_s
    return max(0.0, spent) * 1e9 / (samples[-1].at_ns - samples[0].at_ns)


def percentile(values: Sequence[float], q: float) -> float:
    """Linear-interpolation percentile; infinite where there is nothing: no answer is the slowest."""
    return float(np.percentile(values, q)) if values else float("inf")


def figures(
    part: str,
    during: Heard,
    undisturbed: Heard,
    max_age_ms: Mapping[str, float],
    alive: bool,
    sent: int = 0,
    faults: Sequence[str] = (),
) -> Figures:
    """Of one part, beside what was undisturbed in the same run."""
    calm, latencies = undisturbed.latencies_ms(), during.latencies_ms()
    triggered = [one for one in during.decisions if one["triggered"]]
    status = during.status["status"] if during.status is not None else None
    down = [one["name"] for one in status["sources"] if one["state"] != "running"] if status else []
    return Figures(
        part=part,
        seconds=during.seconds,
        frames_hz=during.frames / during.seconds,
        decisions_hz=len(triggered) / during.seconds,
        honest_hz=len(latencies) / during.seconds,
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        undisturbed_p50=percentile(calm, 50),
        undisturbed_p99=percentile(calm, 99),
        stale=stale_inputs([*during.decisions, *during.aftermath], max_age_ms),
        safe=dict(Counter(str(one["reason"]) for one in during.decisions if one["source"] == "safe")),
        balanced=status is not None and status["conserved"],
        peak_mb=max((one.memory_mb for one in during.samples), default=0.0),
        undisturbed_mb=max((one.memory_mb for one in undisturbed.samples), default=0.0),
        cores=cores(during.samples),
        undisturbed_cores=cores(undisturbed.samples),
        log_lines_s=len(during.log) / during.seconds,
        longest_line=max(map(len, during.log), default=0),
        forged=tuple(filter(is_forged, during.log)),
        lost=during.lost,
        repeated=during.repeated,
        alive=alive,
        sent=sent,
        sources_down=tuple(down),
        faults=tuple(faults),
    )


def is_forged(line: str) -> bool:
    """Whether a sender wrote it, or could steer a terminal with it."""
    return line.startswith(FORGED) or any(unicodedata.category(sign) == "Cc" for sign in line)


@dataclass(frozen=True)
class Rule:
    """What must hold of a part's figures."""

    words: Callable[[Figures], str]
    """Said where it does not."""
    holds: Callable[[Figures], bool]
    timed: bool = False
    """Left out where decisions cannot go on, and on machines that have other work."""


MEMORY = Rule(
    lambda f: f"memory {f.peak_mb:.0f} MiB, {f.undisturbed_mb:.0f} undisturbed, {LIMIT_MB} at most",
    lambda f: f.peak_mb <= min(LIMIT_MB, f.undisturbed_mb + MAX_GROWTH_MB),
)
RULES = (
    Rule(lambda f: "the service ended", lambda f: f.alive),
    Rule(
        lambda f: f"{f.decisions_hz:.1f} decisions a second, {f.frames_hz:.1f} frames came",
        lambda f: f.decisions_hz >= 0.97 * f.frames_hz,
        timed=True,
    ),
    Rule(
        lambda f: f"p99 {f.p99:.1f} ms, at most {2 * f.undisturbed_p99 + 5:.1f}",
        lambda f: f.p99 <= 2 * f.undisturbed_p99 + 5,
        timed=True,
    ),
    Rule(
        lambda f: "safe decisions: " + ", ".join(f"{count} {reason}" for reason, count in f.safe.items()),
        lambda f: not f.safe,
        timed=True,
    ),
    Rule(lambda f: f"{f.lost} decisions did not reach the subscriber", lambda f: f.lost == 0, timed=True),
    Rule(
        lambda f: (
            "older than said: "
            + ", ".join(f"{len(over)} of {name} by up to {max(over) / 1000:.1f} s" for name, over in f.stale.items())
        ),
        lambda f: not f.stale,
    ),
    Rule(lambda f: "the accounts do not balance", lambda f: f.balanced or not f.alive),
    MEMORY,
    Rule(
        lambda f: f"{f.log_lines_s:.1f} log lines a second",
        lambda f: f.log_lines_s <= MAX_LOG_LINES_S,
        timed=True,
    ),
    Rule(lambda f: f"a log line of {f.longest_line} characters", lambda f: f.longest_line <= MAX_LOG_LINE),
    Rule(lambda f: f"{len(f.forged)} log lines were forged: {f.forged[0]!r:.120}", lambda f: not f.forged),
    Rule(lambda f: f"{f.repeated} decisions came twice", lambda f: f.repeated == 0),
    Rule(lambda f: f"sources are down: {', '.join(f.sources_down)}", lambda f: not f.sources_down),
    Rule(lambda f: "; ".join(f.faults), lambda f: not f.faults),
)
QUIET = Rule(
    lambda f: f"{f.cores:.2f} cores, {f.undisturbed_cores:.2f} undisturbed",
    lambda f: f.cores <= f.undisturbed_cores + MAX_QUIET_CORES,
    timed=True,
)


def broken(of: Figures, timed: bool = True, quiet: bool = False) -> tuple[str, ...]:
    """The rules that `of` breaks, in words; without `timed`, only those that hold however slow the machine is."""
    rules = (*RULES, QUIET) if quiet else RULES
    return tuple(rule.words(of) for rule in rules if (timed or not rule.timed) and not rule.holds(of))
