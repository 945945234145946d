"""Bursts of faults, each followed by a while in which the service has to become healthy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from tests.chaos.faults import Chaos, Fault
from tests.chaos.judge import Burst

PATIENCE_S = 60.0
"""For what does not become healthy in time: the run goes on when it is."""
CALM_S = 0.5


def suffer(chaos: Chaos, faults: Sequence[Fault], say: Callable[[str], None] = lambda line: None) -> Burst:
    """All at once, each on a thread of its own; and until the service is healthy again."""
    chaos.broken = []
    begin_ns = time.monotonic_ns()
    threads = [threading.Thread(target=_suffer, args=(chaos, fault)) for fault in faults]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end_ns = time.monotonic_ns()
    deadline = time.monotonic() + PATIENCE_S
    while (healthy_ns := chaos.observer.healthy_ns(end_ns)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ailing = chaos.observer.ailing(end_ns)
    burst = Burst(tuple(fault.name for fault in faults), begin_ns, end_ns, healthy_ns, ailing, tuple(chaos.broken))
    say(
        f"{' + '.join(burst.faults):60.60} {(end_ns - begin_ns) / 1e9:5.1f} s, "
        f"healthy after {burst.recovery_s:4.1f} s  {ailing:.80}"
        + "".join(f"\n  BROKEN {words}" for words in burst.broken)
    )
    time.sleep(CALM_S * chaos.hurry)
    return burst


def settle(chaos: Chaos) -> None:
    """The honest senders end, and all that they sent is taken or lost."""
    chaos.observer.stop_traffic()
    statuses = chaos.observer.seen.statuses
    after_ns = time.monotonic_ns() + 1_000_000_000
    deadline = time.monotonic() + PATIENCE_S
    while statuses[-1]["status"]["published_ns"] < after_ns and time.monotonic() < deadline:
        time.sleep(0.05)


def _suffer(chaos: Chaos, fault: Fault) -> None:
    try:
        fault.do(chaos)
    except Exception as error:  # what the harness could not do is no promise kept
        chaos.promise(False, f"{fault.name}: {type(error).__name__}: {error}")
