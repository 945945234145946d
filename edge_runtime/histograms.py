"""Histograms of times, always on: percentiles since the start and over the last minute, with a known error.

Buckets grow by a constant factor, so that a percentile is off by at most half of it, however small or large
(DDSketch: Masson, Rim and Lee, VLDB 2019, section 2.1). HDR histogram libraries count one value at a time in Python;
here a second's values are counted in one go, which is what a loop can afford.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.wire import DecisionMessage, Percentiles, Timings

GROWTH = 1.02
SMALLEST_MS = 1e-3
LARGEST_MS = 1e6
BUCKETS = math.ceil(math.log(LARGEST_MS / SMALLEST_MS) / math.log(GROWTH)) + 1
RELATIVE_ERROR = (GROWTH - 1) / (GROWTH + 1)
SHARES = np.array([0.5, 0.9, 0.99, 0.999, 1.0])
MINUTE_NS = 60_000_000_000
MARK_NS = 5_000_000_000
"""The last minute is what has come since a mark; one is set so often, so that a minute is 60 to 65 s long."""
WAITING = 4096
"""Decisions that may wait to be counted."""

_PARTS = ("latency", "jitter", "queue", "preprocess", "decide")
_STAGE = "stage "
_AGE = "age "

_Counts = npt.NDArray[np.int64]
_MIDDLES = np.round(SMALLEST_MS * GROWTH ** np.arange(BUCKETS) * 2 / (GROWTH + 1), 5)
"""In each bucket, the value that is off by the same share from both of its ends."""


def bucket_of(milliseconds: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Each value's bucket: number `i` holds what is above `SMALLEST_MS * GROWTH ** (i - 1)`, up to `GROWTH` times it.

    Shape is kept. Values below the smallest are in bucket 0, those above the largest in the last.
    """
    numbers = np.ceil(np.log(np.maximum(milliseconds, SMALLEST_MS) / SMALLEST_MS) / math.log(GROWTH))
    return np.minimum(numbers, BUCKETS - 1).astype(np.intp)


def percentiles(counts: _Counts) -> list[Percentiles]:
    """Of several histograms (`[measures, BUCKETS]`, counts), in milliseconds, each within RELATIVE_ERROR."""
    running = np.cumsum(counts, axis=1)
    totals = running[:, -1:]
    # The rank is that of the sketch's paper: q (n - 1), counted from 0. All rows are searched in one go, each
    # shifted beyond the one before.
    ranks = (SHARES * (totals - 1)).astype(np.int64) + 1
    shift = np.arange(len(counts))[:, None] * (totals.max(initial=0) + 1)
    places = np.searchsorted((running + shift).ravel(), (np.maximum(ranks, 1) + shift).ravel()).reshape(ranks.shape)
    values = _MIDDLES[np.minimum(places - np.arange(len(counts))[:, None] * BUCKETS, BUCKETS - 1)].tolist()
    return [
        Percentiles(total, p50, p90, p99, top, p999) if total else Percentiles(0, None, None, None, None)
        for (total,), (p50, p90, p99, p999, top) in zip(totals.tolist(), values, strict=True)
    ]


class Histograms:
    """Counts of several measures, since the start and at marks of the last minute. One thread."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._counts: _Counts = np.zeros((0, BUCKETS), np.int64)
        self._marks: deque[tuple[int, _Counts]] = deque()

    def add(self, measures: Sequence[str], milliseconds: Sequence[float]) -> None:
        """Count `milliseconds[i]` under `measures[i]`."""
        for name in dict.fromkeys(measures):
            self._rows.setdefault(name, len(self._rows))
        self._counts = _grown(self._counts, len(self._rows))
        rows = np.array([self._rows[name] for name in measures], np.intp)
        np.add.at(self._counts.reshape(-1), rows * BUCKETS + bucket_of(np.asarray(milliseconds, np.float64)), 1)

    def since_start(self) -> dict[str, Percentiles]:
        """Of all values, by measure."""
        return dict(zip(self._rows, percentiles(self._counts), strict=True))

    def last_minute(self, now_ns: int) -> dict[str, Percentiles]:
        """Of the values added within the last 60 to 65 s before `now_ns`, which never falls. Call it once a second."""
        while len(self._marks) > 1 and now_ns - self._marks[1][0] >= MINUTE_NS:
            self._marks.popleft()
        since = self._counts
        if self._marks and now_ns - self._marks[0][0] >= MINUTE_NS:
            since = self._counts - _grown(self._marks[0][1], len(self._rows))
        if not self._marks or now_ns - self._marks[-1][0] >= MARK_NS:
            self._marks.append((now_ns, self._counts.copy()))
        return dict(zip(self._rows, percentiles(since), strict=True))


def _grown(counts: _Counts, rows: int) -> _Counts:
    """`counts` with rows of zeros at the end, up to `rows`."""
    missing = rows - len(counts)
    return np.concatenate([counts, np.zeros((missing, BUCKETS), np.int64)]) if missing else counts


class TimeKeeper:
    """Where the time of decisions goes. A decision costs one append; `timings` counts what has come. Loop thread.

    Measures, in milliseconds: `latency` (capture to publish), `queue`, `preprocess`, `decide`, `stage NAME` (where it
    ran), `jitter` (by how much latencies of neighbours differ: RFC 3550, section 6.4.1, without its smoothing),
    `age STREAM` (of each input that was present). Only ages are taken of heartbeats, which answer no message.
    """

    def __init__(self) -> None:
        self._waiting: list[DecisionMessage] = []
        self._histograms = Histograms()
        self._before_ms: float | None = None
        self._deadline_ms = math.inf
        self.misses = 0
        """Latencies beyond the deadline."""

    def decided(self, message: DecisionMessage) -> None:
        """Take note of a published decision."""
        self._waiting.append(message)
        if len(self._waiting) >= WAITING:
            self._count()

    def timings(self, now_ns: int, deadline_ms: float) -> Timings:
        """What `status` tells at `now_ns`. A latency beyond `deadline_ms` is a miss, from the next decision on."""
        self._count()
        self._deadline_ms = deadline_ms
        return Timings(
            since_start=self._histograms.since_start(),
            last_minute=self._histograms.last_minute(now_ns),
            deadline_ms=round(deadline_ms, 3),
            deadline_misses=self.misses,
        )

    def since_start(self) -> dict[str, Percentiles]:
        """Of all decisions so far, by measure."""
        self._count()
        return self._histograms.since_start()

    def _count(self) -> None:
        waiting, self._waiting = self._waiting, []
        names: list[str] = []
        milliseconds: list[float] = []
        for message in waiting:
            for name, state in message.inputs.items():
                if state.present and state.age_ms is not None:
                    names.append(_AGE + name)
                    milliseconds.append(state.age_ms)
            latency = message.latency_ms
            if latency.queue == 0:
                continue
            latency_ms = latency.capture_to_publish
            self.misses += latency_ms > self._deadline_ms
            names += _PARTS
            jitter_ms = 0.0 if self._before_ms is None else abs(latency_ms - self._before_ms)
            milliseconds += (latency_ms, jitter_ms, latency.queue, latency.preprocess, latency.decide)
            self._before_ms = latency_ms
            for name, infer_ms in latency.infer.items():
                if infer_ms > 0:
                    names.append(_STAGE + name)
                    milliseconds.append(infer_ms)
        if names:
            self._histograms.add(names, milliseconds)
