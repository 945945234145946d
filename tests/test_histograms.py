from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.histograms import (
    BUCKETS,
    GROWTH,
    LARGEST_MS,
    RELATIVE_ERROR,
    SMALLEST_MS,
    Histograms,
    TimeKeeper,
    bucket_of,
)
from edge_runtime.wire import BundleId, DecisionMessage, InputState, Latency

S = 1_000_000_000
PROMISED = 0.01
"""What is said of the error where percentiles are told."""
VALUES = st.lists(st.floats(SMALLEST_MS, LARGEST_MS), min_size=1, max_size=300)


def decision(
    latency_ms: float, queue: float = 0.1, ages: dict[str, float | None] | None = None, **infer: float
) -> DecisionMessage:
    inputs = {name: InputState(age is not None, age, None) for name, age in (ages or {}).items()}
    times = Latency(latency_ms, queue, 0.2, infer, 0.3)
    bundle = BundleId("b", "1", "d")
    return DecisionMessage(1, "n", bundle, 0, 0, 0, "", "go", 1.0, {}, [], "model", None, inputs, times, {}, {}, {})


@given(VALUES)
def test_every_percentile_is_within_the_promised_error_of_the_sorted_values(values: list[float]) -> None:
    histograms = Histograms()
    histograms.add(["x"] * len(values), values)
    found = histograms.since_start()["x"]
    ordered = sorted(values)
    assert found.count == len(values)
    for share, told in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (0.999, found.p999), (1.0, found.max)):
        true = ordered[int(share * (len(ordered) - 1))]
        assert told is not None
        assert told == pytest.approx(true, rel=PROMISED, abs=2e-5)


def test_they_agree_with_an_hdr_histogram() -> None:
    hdr = HdrHistogram(1, 10**8, 3)
    values = np.random.default_rng(3).lognormal(1.0, 0.7, 20_000)
    histograms = Histograms()
    histograms.add(["x"] * len(values), values.tolist())
    for value in values:
        hdr.record_value(round(value * 1000))
    found = histograms.since_start()["x"]
    for share, told in ((50, found.p50), (90, found.p90), (99, found.p99), (99.9, found.p999), (100, found.max)):
        assert told == pytest.approx(hdr.get_value_at_percentile(share) / 1000, rel=0.015)


def test_each_measure_has_its_own_counts_whenever_it_first_came() -> None:
    histograms = Histograms()
    histograms.add(["a", "b", "a"], [1.0, 100.0, 1.0])
    histograms.add(["c", "b"], [10_000.0, 100.0])
    found = histograms.since_start()
    assert {name: item.count for name, item in found.items()} == {"a": 2, "b": 2, "c": 1}
    for name, value in (("a", 1.0), ("b", 100.0), ("c", 10_000.0)):
        assert found[name].p50 == found[name].max == pytest.approx(value, rel=PROMISED)


def test_what_is_beyond_the_ends_is_in_the_last_bucket_at_each() -> None:
    numbers = bucket_of(np.array([-1.0, 0.0, SMALLEST_MS, SMALLEST_MS * 1.001, LARGEST_MS * 10, math.inf]))
    assert numbers.tolist() == [0, 0, 0, 1, BUCKETS - 1, BUCKETS - 1]


@given(st.integers(1, BUCKETS - 3))
def test_a_bucket_ends_where_the_next_begins(number: int) -> None:
    end = SMALLEST_MS * GROWTH**number
    assert bucket_of(np.array([end * 0.999, end * 1.001])).tolist() == [number, number + 1]


def test_the_last_minute_forgets_what_is_older() -> None:
    histograms = Histograms()
    seen = []
    for second in range(200):
        histograms.add(
            ["x", "y"] if second < 10 else ["x"], [5.0, 9.0] if second < 10 else [1.0 if second > 99 else 5.0]
        )
        seen.append(histograms.last_minute(second * S))
    assert [item["x"].count for item in seen[:61]] == [*range(1, 61), 60]
    assert all(60 <= item["x"].count < 65 for item in seen[61:])
    assert seen[99]["x"].p50 == pytest.approx(5.0, rel=0.01)
    assert seen[130]["x"].max == pytest.approx(5.0, rel=0.01)
    assert seen[170]["x"].max == pytest.approx(1.0, rel=0.01)
    assert seen[9]["y"].count == 10 and seen[199]["y"].count == 0
    assert histograms.since_start()["x"].count == 200


def test_a_decision_gives_a_value_to_each_measure() -> None:
    times = TimeKeeper()
    times.timings(0, 10.0)
    times.decided(decision(8.0, ages={"camera": 4.0, "text": None}, vision=2.0, fused=0.0))
    times.decided(decision(11.0, ages={"camera": 6.0, "text": 9.0}, vision=0.0, fused=1.0))
    times.decided(decision(0.5, queue=0.0, ages={"camera": 7.0}, fused=1.0))
    told = times.timings(S, 10.0)
    counts = {name: found.count for name, found in told.since_start.items()}
    parts = {"latency": 2, "queue": 2, "preprocess": 2, "decide": 2, "jitter": 2}
    assert counts == {**parts, "age camera": 3, "age text": 1, "stage vision": 1, "stage fused": 1}
    assert told.since_start["jitter"].max == pytest.approx(3.0, rel=0.01)
    assert told.since_start["latency"].max == pytest.approx(11.0, rel=0.01)
    assert told.since_start == told.last_minute
    assert (told.deadline_ms, told.deadline_misses) == (10.0, 1)


def test_the_error_that_is_told_is_the_one_that_is_kept() -> None:
    assert pytest.approx(PROMISED, rel=0.02) == RELATIVE_ERROR <= PROMISED
    ends = np.array([1e3 * GROWTH, 1e3 * GROWTH**2])  # both ends of a bucket are as far from what is said of it
    histograms = Histograms()
    for value in np.linspace(*ends, 50):
        histograms.add([f"{value}"], [float(value)])
    errors = [abs(found.max / float(name) - 1) for name, found in histograms.since_start().items() if found.max]
    assert len(errors) == 50 and max(errors) <= RELATIVE_ERROR * 1.02


def test_what_is_told_without_a_status_counts_what_waits_and_an_absent_input_has_no_age() -> None:
    times = TimeKeeper()
    assert times.since_start() == {}
    old = msgspec.structs.replace(decision(8.0), inputs={"camera": InputState(False, 900.0, 3, reason="stale")})
    times.decided(old)
    found = times.since_start()
    assert found["latency"].count == 1 and "age camera" not in found
    times.decided(decision(9.0))
    assert times.since_start()["jitter"].max == pytest.approx(1.0, rel=PROMISED)
    assert times.since_start()["jitter"].p50 == pytest.approx(0.001, abs=2e-5), "the first has no neighbour"


def test_no_more_decisions_wait_than_a_bound() -> None:
    times = TimeKeeper()
    for _ in range(10_000):
        times.decided(decision(1.0))
        assert len(times._waiting) < 4096
    assert times.timings(0, 1.0).since_start["latency"].count == 10_000
