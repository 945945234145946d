"""Ranges: what is collected, what is chosen from it, and what their file refuses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.fit import distance, refuse_misfit
from calibration.ranges import (
    BINS,
    LEVELS,
    METHODS,
    Observed,
    RangesFile,
    _divergence,
    collect,
    read_ranges,
    tensor_ranges,
    threshold,
    write_ranges,
)
from edge_runtime.errors import GateRefused, UserError
from tests.build_engines import small_graphs as small


def observed(values: np.ndarray) -> Observed:
    reach = max(float(np.abs(values).max()), 1e-30)
    counts = np.histogram(np.abs(values), bins=BINS, range=(0, reach))[0]
    return Observed(float(values.min()), float(values.max()), counts)


def _feeds(count: int, seed: int = 0, divide: int = 1) -> Any:
    def give() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index, feeds in enumerate(small.pictures(count, seed)):
            yield f"s{index}", {"image": feeds["image"] // divide}

    return give


def test_it_sees_exactly_what_the_graph_computes() -> None:
    model = small.camera_net()
    found = collect(model, _feeds(6), ["planes", "c1", "pooled"])
    for name in ("planes", "c1", "pooled"):
        assert found[name].reach == pytest.approx(small.ranges(model, small.pictures(6), [name])[name], rel=1e-5)
    assert int(found["planes"].counts.sum()) == 6 * 3 * 12 * 12


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    def broken() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        yield "good", {"x": np.zeros((1, 8, 16), np.float32)}
        yield "bad", {"x": np.full((1, 8, 16), np.nan, np.float32)}

    with pytest.raises(GateRefused, match="q of small is not finite for the sample bad"):
        collect(small.attention_net(), broken, ["q"])


@given(st.integers(0, 1000), st.floats(0.01, 100, allow_subnormal=False))
def test_no_method_reaches_further_than_what_was_seen(seed: int, scale: float) -> None:
    one = observed(np.random.default_rng(seed).normal(size=4000) * scale)
    for method in METHODS:
        assert 0 < threshold(one, method) <= one.reach * (1 + 1e-9)
    assert threshold(one, "minmax") == one.reach


def _error(values: np.ndarray, limit: float) -> float:
    step = limit / LEVELS
    return float(np.mean((np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values) ** 2))


@given(st.integers(0, 1000))
def test_the_least_square_error_is_no_worse_than_the_whole_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=20000)
    one = observed(values)
    assert _error(values, threshold(one, "mse")) <= _error(values, one.reach) * 1.02


def test_one_outlier_is_clipped_by_all_but_minmax() -> None:
    values = np.append(np.random.default_rng(0).normal(size=100_000), 400.0)
    found = {method: threshold(observed(values), method) for method in METHODS}
    assert found["minmax"] == 400
    assert found["percentile"] < 10
    for method in ("mse", "entropy"):
        assert found[method] < 400
    assert len(set(found.values())) > 2


def test_what_was_always_zero_can_be_represented() -> None:
    assert {threshold(Observed(0, 0, np.zeros(BINS, np.int64)), method) for method in METHODS} == {1.0}


def test_the_file_round_trips_and_belongs_to_its_graph(tmp_path: Path) -> None:
    ranges = tensor_ranges({"x": observed(np.linspace(-1, 2, 999))}, tuple(METHODS))
    digest = hashlib.sha256(b"graph").hexdigest()
    made = RangesFile(1, {"vision": digest}, "d" * 64, ("a", "b"), {"vision": ranges})
    path = tmp_path / "ranges.json"
    write_ranges(path, made)
    assert read_ranges(path, {"vision": b"graph"}) == made
    assert made.thresholds("vision", "minmax") == {"x": 2.0}
    with pytest.raises(UserError, match="made from another graph of vision"):
        read_ranges(path, {"vision": b"other"})
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match="is damaged"):
        read_ranges(path, {"vision": b"graph"})
    with pytest.raises(UserError, match="cannot be read"):
        read_ranges(tmp_path / "none.json", {})


def test_pictures_of_another_scale_do_not_fit_and_honest_ones_do() -> None:
    model, names = small.camera_net(), ["planes", "r0", "pooled"]
    here, there = collect(model, _feeds(40, 1), names), collect(model, _feeds(40, 2), names)
    assert refuse_misfit("vision", here, there) < 0.1
    with pytest.raises(GateRefused, match="do not fit the evaluation split"):
        refuse_misfit("vision", collect(model, _feeds(40, 1, divide=64), names), there)


@given(st.integers(0, 100), st.integers(0, 100))
def test_distance_is_symmetric_and_zero_to_itself(first: int, second: int) -> None:
    one = observed(np.random.default_rng(first).normal(size=500))
    other = observed(np.random.default_rng(second).normal(size=500) * 2)
    assert distance(one, one) == 0
    assert distance(one, other) == distance(other, one)


def histogram(seed: int, beyond: float) -> Observed:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(size=3000), rng.uniform(-beyond, beyond, 20)])
    return observed(np.maximum(values, -beyond))


def divergence_by_hand(counts: list[float], stop: int) -> float:
    """Of the first `stop` bins, the rest clipped into the last, from their own quantised to 128 levels."""
    kept = counts[:stop]
    clipped = [*kept[:-1], kept[-1] + sum(counts[stop:])]
    levels: dict[int, list[int]] = {}
    for place in range(stop):
        levels.setdefault(place * 128 // stop, []).append(place)
    spread = [0.0] * stop
    for places in levels.values():
        occupied = [place for place in places if kept[place] > 0]
        for place in occupied:
            spread[place] = sum(kept[one] for one in places) / len(occupied)
    if not any(spread):
        return math.inf
    all_clipped, all_spread, found = sum(clipped), sum(spread), 0.0
    for here, there in zip(clipped, spread, strict=True):
        if here > 0:
            share = here / all_clipped
            found += share * math.log(share / max(there / all_spread, 1e-12))
    return found


@pytest.mark.parametrize(("seed", "beyond"), [(0, 4.0), (1, 30.0)])
def test_the_entropy_threshold_is_the_one_worked_out_bin_by_bin(seed: int, beyond: float) -> None:
    one = histogram(seed, beyond)
    counts = [0.0, *one.counts[1:].astype(float).tolist()]
    stops = range(128, BINS + 1, 8)
    best = min(stops, key=lambda stop: divergence_by_hand(counts, stop))
    assert threshold(one, "entropy") == pytest.approx(best * one.reach / BINS)
    only_zeros = np.zeros(BINS, np.int64)
    only_zeros[0] = 9
    assert threshold(Observed(-0.5, 0.25, only_zeros), "entropy") == 0.5


@pytest.mark.parametrize(("seed", "beyond"), [(0, 4.0), (1, 300.0)])
def test_the_square_error_s_threshold_is_the_one_worked_out_bin_by_bin(seed: int, beyond: float) -> None:
    one = histogram(seed, beyond)
    bins = [((place + 0.5) * one.reach / BINS, count) for place, count in enumerate(one.counts.tolist()) if count]

    def error(limit: float) -> float:
        rounding = (limit / 127) ** 2 / 12
        return sum(count * (rounding if centre <= limit else (centre - limit) ** 2) for centre, count in bins)

    limits = [place * one.reach / BINS for place in range(128, BINS, 8)] + [one.reach]
    assert threshold(one, "mse") == pytest.approx(min(limits, key=error))
    assert one.centres()[[0, -1]] == pytest.approx([one.reach / BINS / 2, one.reach * (1 - 0.5 / BINS)])


def two_heaps(low: int, high: int = 1) -> Observed:
    """So many values at the lower end of what is seen, and so many at its upper end, 2."""
    counts = np.zeros(BINS, np.int64)
    counts[3], counts[-1] = low, high
    return Observed(-1.0, 2.0, counts)


@pytest.mark.parametrize("low", [1000, 10_000, 50_000, 10**9])
def test_what_clipping_costs_is_weighed_against_a_twelfth_of_a_squared_step_for_every_value(low: int) -> None:
    """In units of a 2048th of the reach, by hand: one value at 2047.5, the others at 3.5."""
    errors = {
        limit: (limit / 127) ** 2 / 12 * (low + (limit == 2048)) + (limit < 2048) * (2047.5 - limit) ** 2
        for limit in range(128, 2049, 8)
    }
    best = min(errors, key=lambda limit: errors[limit])
    assert threshold(two_heaps(low), "mse") == best * 2.0 / 2048
    assert low < 10**9 or best == 128


def test_histograms_have_the_2048_bins_of_the_method_s_source() -> None:
    assert BINS == 2048
    assert threshold(two_heaps(99_999), "percentile") == 4 * 2.0 / 2048
    assert threshold(two_heaps(9), "percentile") == 2.0


@pytest.mark.parametrize("stop", [128, 136, 1000, 2048])
def test_a_divergence_is_the_one_worked_out_bin_by_bin(stop: int) -> None:
    counts = histogram(0, 4.0).counts.astype(np.float64)
    clipped = counts[:stop].copy()
    clipped[-1] += counts[stop:].sum()
    assert _divergence(clipped, counts[:stop]) == pytest.approx(divergence_by_hand(counts.tolist(), stop))


def test_a_divergence_from_nothing_is_infinite_and_from_one_value_it_is_not() -> None:
    nothing, one = np.zeros(256), np.zeros(256)
    one[7] = 1.0
    assert _divergence(one, nothing) == math.inf
    assert _divergence(one, one) == 0.0
    # The value's level holds two bins, the clipped mass lies in one without a value of its own.
    clipped = one.copy()
    clipped[-1] = 3.0
    expected = 0.25 * math.log(0.25 / 1.0) + 0.75 * math.log(0.75 / 1e-12)
    assert _divergence(clipped, one) == pytest.approx(expected)


def test_the_percentile_s_threshold_is_the_end_of_the_bin_that_reaches_it() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[0], counts[-1] = 9999, 1
    assert threshold(Observed(-2.0, 1.0, counts), "percentile") == 2.0 / BINS
    counts[0], counts[10] = 9998, 1
    assert threshold(Observed(-2.0, 1.0, counts), "percentile") == 11 * 2.0 / BINS
    counts[:] = 0
    counts[-1] = 5
    assert threshold(Observed(0.0, 3.0, counts), "percentile") == 3.0
    assert threshold(Observed(-2.0, 1.0, counts), "minmax") == 2.0


def test_inputs_outputs_and_what_lies_between_are_counted_alike_each_once() -> None:
    model = small.camera_net()
    output = model.graph.output[0].name
    found = collect(model, _feeds(3), ["image", output, "c1", "c1"])
    assert list(found) == ["image", output, "c1"]
    pictures = np.concatenate([feeds["image"] for feeds in small.pictures(3, 0)])
    assert (found["image"].low, found["image"].high) == (float(pictures.min()), float(pictures.max()))
    expected = np.histogram(pictures, bins=BINS, range=(0, float(pictures.max())))[0]
    assert found["image"].counts.tolist() == expected.tolist()
    assert collect(model, _feeds(3), []) == {}
    assert [value.name for value in model.graph.output] == [output], "the graph itself is left as it was"


def test_what_stays_zero_has_no_counts_and_no_samples_are_no_ranges() -> None:
    def zeros() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        yield "a", {"image": np.zeros_like(small.pictures(1, 0)[0]["image"])}

    found = collect(small.camera_net(), zeros, ["image"])["image"]
    assert (found.low, found.high, found.reach, int(found.counts.sum())) == (0, 0, 0, 0)
    with pytest.raises(UserError, match="there is no sample"):
        collect(small.camera_net(), lambda: iter(()), ["image"])


def test_a_ranges_file_of_another_format_or_of_a_stage_that_is_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    digest = hashlib.sha256(b"graph").hexdigest()
    made = RangesFile(1, {"vision": digest}, "d" * 64, (), {})
    write_ranges(path, RangesFile(2, {"vision": digest}, "d" * 64, (), {}))
    with pytest.raises(UserError, match="format 2 is not known here"):
        read_ranges(path, {"vision": b"graph"})
    write_ranges(path, made)
    with pytest.raises(UserError, match="another graph of vision .*no such stag"):
        read_ranges(path, {"text": b"graph"})
    assert made.thresholds("text", "minmax") == {}
    text = path.read_text()
    path.write_text(text.replace('"format"', '"surprise": 1, "format"'))
    with pytest.raises(UserError, match="is damaged"):
        read_ranges(path, {"vision": b"graph"})
    write_ranges(path, RangesFile(1, {}, "d" * 64, (), {"vision": tensor_ranges({"x": two_heaps(1)}, ("minmax",))}))
    path.write_text(path.read_text().replace('"low"', '"surprise": 1, "low"'))
    with pytest.raises(UserError, match="is damaged"):
        read_ranges(path, {})
    assert tensor_ranges({"x": observed(np.array([-3.0, 1.0]))}, ("minmax",))["x"].thresholds == {"minmax": 3.0}
