"""How large the activations become: what symmetric INT8 must be able to represent.

Histograms of absolute values are collected over the calibration set with the FP32 graphs, in two passes (the first
finds how far the bins must reach). A threshold is then chosen from each; what lies beyond it is clipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from msgspec import Struct
from numpy.typing import NDArray
from onnx import ModelProto, helper

from calibration.spread import cores
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.messages import Tensors

BINS = 2048
LEVELS = 127
"""Steps of symmetric INT8 on either side of 0."""
PERCENTILE = 99.99
Feeds = Callable[[], Iterable[tuple[str, Tensors]]]
"""Gives, each time it is called, every sample's id and one stage's inputs."""


@dataclass(frozen=True)
class Observed:
    """What one tensor was seen to hold."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """[BINS]: how many absolute values fell into each part of 0 to `reach`."""

    @property
    def reach(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        middles: NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (self.reach / BINS)
        return middles


def collect(model: ModelProto, feeds: Feeds, tensors: Sequence[str]) -> dict[str, Observed]:
    """What each of `tensors` held in the FP32 `model` over all samples. `feeds` is called twice.

    Raises GateRefused naming tensor and sample where a value is not finite.
    """
    names = list(dict.fromkeys(tensors))
    if not names:
        return {}
    inputs = {value.name for value in model.graph.input}
    watched = [name for name in names if name not in inputs]
    session = _session(model, watched)
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for identity, values in _values(session, feeds, names, watched):
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise GateRefused(f"calibrate: {name} of {model.graph.name} is not finite for the sample {identity}")
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    if not np.isfinite(low[names[0]]):
        raise UserError("calibrate: there is no sample to collect ranges from")
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for _, values in _values(session, feeds, names, watched):
        for name, value in values.items():
            reach = max(abs(low[name]), abs(high[name]))
            if reach > 0:
                counts[name] += np.histogram(np.abs(value), bins=BINS, range=(0.0, reach))[0]
    return {name: Observed(low[name], high[name], counts[name]) for name in names}


def _session(model: ModelProto, watched: Sequence[str]) -> onnxruntime.InferenceSession:
    open_model = ModelProto()
    open_model.CopyFrom(model)
    already = {value.name for value in open_model.graph.output}
    open_model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in watched if name not in already)
    return onnxruntime.InferenceSession(
        open_model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )


def _values(
    session: onnxruntime.InferenceSession, feeds: Feeds, names: Sequence[str], watched: Sequence[str]
) -> Iterable[tuple[str, Mapping[str, NDArray[np.float32]]]]:
    def values(item: tuple[str, Tensors]) -> tuple[str, Mapping[str, NDArray[np.float32]]]:
        identity, inputs = item
        outputs = dict(zip(watched, session.run(list(watched), dict(inputs)), strict=True)) if watched else {}
        return identity, {name: np.asarray(outputs.get(name, inputs.get(name)), np.float32) for name in names}

    # A few at a time: all activations of all samples would not fit into memory.
    count, rest = cores(), iter(feeds())
    with ThreadPoolExecutor(count) as pool:
        while some := list(islice(rest, count)):
            yield from pool.map(values, some)


def threshold(observed: Observed, method: str) -> float:
    """The largest absolute value to represent, by `method`: a key of `METHODS`. Never 0."""
    if observed.reach == 0:
        return 1.0  # it was always 0: any range represents that
    return METHODS[method](observed)


def _minmax(observed: Observed) -> float:
    return observed.reach


def _percentile(observed: Observed) -> float:
    """Where 99.99 % of the values lie below."""
    share = np.cumsum(observed.counts) / observed.counts.sum()
    return float((int(np.searchsorted(share, PERCENTILE / 100)) + 1) * observed.reach / BINS)


def _mse(observed: Observed) -> float:
    """The threshold with the least mean square error of rounding and clipping together.

    Rounding to steps of s errs by s^2 / 12 on average (Bennett 1948).
    """
    centres, counts = observed.centres(), observed.counts.astype(np.float64)
    limits = np.append(np.arange(BINS // 16, BINS, 8) * (observed.reach / BINS), observed.reach)
    beyond = np.maximum(centres[None, :] - limits[:, None], 0.0)
    clipped = (beyond**2) @ counts
    rounded = (limits / LEVELS) ** 2 / 12 * ((centres[None, :] <= limits[:, None]) @ counts)
    return float(limits[int(np.argmin(clipped + rounded))])


def _entropy(observed: Observed) -> float:
    """The threshold whose quantised distribution is nearest to the clipped one in Kullback-Leibler divergence.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017. As there, the bin of the zeros is left out.
    """
    counts = observed.counts.astype(np.float64)
    counts[0] = 0
    if counts.sum() == 0:
        return observed.reach
    best, chosen = np.inf, BINS
    for stop in range(LEVELS + 1, BINS + 1, 8):
        clipped = counts[:stop].copy()
        clipped[-1] += counts[stop:].sum()
        if (divergence := _divergence(clipped, counts[:stop])) < best:
            best, chosen = divergence, stop
    return float(chosen * observed.reach / BINS)


def _divergence(clipped: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """KL(clipped || counts spread evenly over LEVELS + 1 quantised levels)."""
    levels = LEVELS + 1
    level = np.arange(len(counts)) * levels // len(counts)
    occupied = counts > 0
    total = np.bincount(level, counts, levels)
    width = np.bincount(level, occupied.astype(np.float64), levels)
    spread = np.where(occupied, (total / np.maximum(width, 1))[level], 0.0)
    if spread.sum() == 0:
        return float(np.inf)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    used = p > 0
    # Mass that was clipped into a bin without values of its own: a small floor keeps the divergence finite.
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))


METHODS: dict[str, Callable[[Observed], float]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
"""Name to how a threshold is chosen."""


class TensorRange(Struct, frozen=True, forbid_unknown_fields=True):
    """One activation in the ranges file."""

    low: float
    high: float
    thresholds: dict[str, float]
    """Method to the largest absolute value to represent."""


class RangesFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`ranges.json`: for people to read, and for the quantise stage."""

    format: int
    models: dict[str, str]
    """Stage to the sha256 of the FP32 graph that was observed."""
    data: str
    """sha256 over the chosen samples' tensors."""
    samples: tuple[str, ...]
    """Ids of the chosen samples."""
    stages: dict[str, dict[str, TensorRange]]
    """Stage to activation to its range."""

    def thresholds(self, stage: str, method: str) -> dict[str, float]:
        """Activation to threshold by `method`."""
        return {name: tensor_range.thresholds[method] for name, tensor_range in self.stages.get(stage, {}).items()}


def tensor_ranges(observed: Mapping[str, Observed], methods: Sequence[str]) -> dict[str, TensorRange]:
    """`observed` with the thresholds of every method, ready to be written."""
    return {
        name: TensorRange(tensor.low, tensor.high, {method: threshold(tensor, method) for method in methods})
        for name, tensor in observed.items()
    }


def write_ranges(path: Path, ranges: RangesFile) -> None:
    """Write the ranges file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ranges), indent=1) + b"\n")


def read_ranges(path: Path, models: Mapping[str, bytes]) -> RangesFile:
    """The ranges file at `path`, which must have been made from `models` (stage to the FP32 graph's bytes).

    Raises UserError (one line) if it is missing, damaged, or belongs to other graphs.
    """
    try:
        ranges = msgspec.json.decode(path.read_bytes(), type=RangesFile)
    except OSError as error:
        raise UserError(f"ranges {path}: cannot be read ({error.strerror}); run the calibrate stage") from None
    except msgspec.DecodeError as error:
        raise UserError(f"ranges {path}: is damaged ({error}); run the calibrate stage again") from None
    if ranges.format != 1:
        raise UserError(f"ranges {path}: format {ranges.format} is not known here; run the calibrate stage again")
    for stage, expected in ranges.models.items():
        actual = hashlib.sha256(models[stage]).hexdigest() if stage in models else "no such stage"
        if actual != expected:
            raise UserError(
                f"ranges {path}: made from another graph of {stage} ({expected[:12]}, not {actual[:12]}); "
                "run the calibrate stage again"
            )
    return ranges
