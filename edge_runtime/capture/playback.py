"""What sources that play something at its own times share: the wait for what is due, and the account at the end."""

from __future__ import annotations

import logging
import time
from collections import Counter

from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source

log = logging.getLogger("edge_runtime.capture")


def wait_until(source: Source, due_ns: int) -> bool:
    """Sleep until `due_ns` of the monotonic clock; False if the source was stopped meanwhile."""
    left_s = (due_ns - time.monotonic_ns()) / 1e9
    return not (source.stopping.wait(left_s) if left_s > 0 else source.stopping.is_set())


def log_end(source: Source, intake: Intake, stream: str, before: Counter[str], read: int, noun: str) -> None:
    """Log how many `noun` a source that ended had read, and what was refused since the counts `before`, by reason."""
    refused = intake.refusals(stream) - before
    summary = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items())) or "nothing"
    log.info("%s: ended; %d %s read, refused: %s", source.name, read, noun, summary)
