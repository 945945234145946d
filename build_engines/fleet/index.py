"""Recordings as a data set: Parquet files of what is in each, for DuckDB or anything else that reads them."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from build_engines.fleet.drift import Neighbours, stability
from build_engines.fleet.recordings import Source
from build_engines.fleet.report import SURE
from build_engines.fleet.sight import LOOKS, SIGMA_EDGES, Moment, Sight, inner_stages
from build_engines.fleet.tally import CONFIDENCE_BINS, Bins, Histogram, added, percentile_ms
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.streams import kind
from edge_runtime.wire import BundleId

FORMAT = 1
SUMMARY = "index.json"
KNOWN_MOMENTS = 4000
"""Of all moments so many, those of the smallest digests, are what others are unlike."""
TABLES = ("recordings", "streams", "channels", "reasons", "moments", "features")

Sights = Callable[[], Iterator[tuple[str, Sight]]]
"""Every recording's partial, in the order of their ids; afresh each time."""


class Index(Struct, frozen=True):
    """`index.json`."""

    format: int
    bundles: tuple[BundleId, ...]
    places: dict[str, str]
    """Recording to its file."""
    left_out: dict[str, str]
    cut: tuple[str, ...]
    reference: str
    """What channels and moments were compared with: the fleet itself, or another index."""
    histograms: dict[str, dict[str, Histogram]]
    """Stream to channel to all readings."""


class Known(Struct, frozen=True):
    """What is usual."""

    name: str
    histograms: Mapping[str, Mapping[str, Histogram]]
    neighbours: Mapping[str, Neighbours]
    """By stage."""


def write_index(
    folder: Path, bundles: Sequence[Bundle], sources: Sequence[Source], left_out: Mapping[str, str], sights: Sights,
    reference: Path | None = None,
) -> Index:  # fmt: skip
    """Write the tables into `folder`, the same bytes for the same recordings. `reference`: an index of recordings that
    stand for the training data; without it what is unlike is unlike the other recordings. Raises UserError."""
    arrow, parquet = _pyarrow()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"index {folder}: cannot be written ({error.strerror}); choose another folder") from None
    by_id = {source.id: source for source in sources}
    histograms: dict[str, dict[str, Histogram]] = {}
    cut, places = [], {}
    for name, sight in sights():
        places[name] = by_id[name].path
        if sight.cut:
            cut.append(name)
        for stream, channels in sight.channels.items():
            for channel, seen in channels.items():
                before = histograms.setdefault(stream, {}).get(channel, ())
                histograms[stream][channel] = added(Bins(before), Bins(seen.bins)).counts
    sample = _sampled(sights)
    if reference is not None:
        known = _known_of(reference)
    else:
        vectors = (
            (stage, name, np.frombuffer(values, np.float32))
            for name, moment in sample
            for stage, values in moment.features.items()
        )
        known = Known("the recordings themselves", histograms, _neighbours(vectors))
    rows = _Rows(bundles[0], by_id, known, _label_counts(sights))
    for table in TABLES[:-1]:
        with parquet.ParquetWriter(folder / f"{table}.parquet", schema(arrow, table), compression="zstd") as writer:
            for batch in _batches(rows.of(table, sights)):
                writer.write_table(arrow.Table.from_pylist(batch, schema(arrow, table)))
    features = [
        {
            "stage": stage,
            "recording": name,
            "seq": moment.seq,
            "values": np.frombuffer(moment.features[stage], np.float32),
        }
        for name, moment in sample
        for stage in sorted(moment.features)
    ]
    parquet.write_table(
        arrow.Table.from_pylist(features, schema(arrow, "features")), folder / "features.parquet", compression="zstd"
    )
    identities = tuple(BundleId(one.manifest.name, one.manifest.version, one.digest) for one in bundles)
    index = Index(FORMAT, identities, places, dict(sorted(left_out.items())), tuple(cut), known.name, histograms)
    (folder / SUMMARY).write_bytes(
        msgspec.json.format(msgspec.json.encode(index, order="deterministic"), indent=1) + b"\n"
    )
    return index


def read_index(folder: Path) -> Index:
    """Raises UserError."""
    try:
        return msgspec.json.decode((folder / SUMMARY).read_bytes(), type=Index)
    except OSError as error:
        raise UserError(
            f"index {folder}: cannot be read ({error.strerror}); build-engines fleet index makes one"
        ) from None
    except msgspec.DecodeError as error:
        raise UserError(f"index {folder}: {SUMMARY} is damaged ({error}); make it again") from None


def _known_of(reference: Path) -> Known:
    _, parquet = _pyarrow()
    index = read_index(reference)
    rows = parquet.read_table(reference / "features.parquet").to_pylist()
    vectors = ((row["stage"], f"{reference}: {row['recording']}", np.array(row["values"], np.float32)) for row in rows)
    return Known(str(reference), index.histograms, _neighbours(vectors))


def _neighbours(vectors: Iterable[tuple[str, str, NDArray[np.float32]]]) -> dict[str, Neighbours]:
    """By stage, of its name, a recording and what it gave."""
    known: dict[str, list[tuple[str, NDArray[np.float32]]]] = {}
    for stage, name, values in vectors:
        known.setdefault(stage, []).append((name, values))
    return {
        stage: Neighbours(np.stack([values for _, values in rows]), [name for name, _ in rows])
        for stage, rows in sorted(known.items())
    }


def _sampled(sights: Sights) -> list[tuple[str, Moment]]:
    """KNOWN_MOMENTS of all moments, by the digest of what they hold: whatever the recordings are called."""

    def keyed() -> Iterator[tuple[bytes, str, int, Moment]]:
        for name, sight in sights():
            for moment in sight.moments:
                total = hashlib.sha256()
                for stage, values in sorted(moment.features.items()):
                    total.update(stage.encode() + values)
                yield total.digest(), name, moment.seq, moment

    chosen = heapq.nsmallest(KNOWN_MOMENTS, keyed(), key=lambda item: item[:3])
    return sorted(((name, moment) for _, name, _, moment in chosen), key=lambda item: (item[0], item[1].seq))


def _label_counts(sights: Sights) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, sight in sights():
        for label, count in sight.tally.labels.items():
            counts[label] = counts.get(label, 0) + count
    return counts


def _batches(rows: Iterable[dict[str, Any]], size: int = 4096) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


class _Rows:
    """Rows of every table."""

    def __init__(self, bundle: Bundle, sources: Mapping[str, Source], known: Known, labels: Mapping[str, int]) -> None:
        self._manifest, self._sources, self._known = bundle.manifest, sources, known
        self._labels, self._decisions = labels, max(1, sum(labels.values()))
        self._stages = inner_stages(bundle.manifest)

    def of(self, table: str, sights: Sights) -> Iterator[dict[str, Any]]:
        make = {
            "recordings": self._recordings, "streams": self._streams, "channels": self._channels,
            "reasons": self._reasons, "moments": self._moments,
        }[table]  # fmt: skip
        for name, sight in sights():
            for row in make(name, sight):
                yield {"recording": name, **row}

    def _recordings(self, name: str, sight: Sight) -> Iterator[dict[str, Any]]:
        tally = sight.tally
        low = sum(tally.confidence[: int(SURE * CONFIDENCE_BINS)])
        yield {
            "path": self._sources[name].path, "condition": self._sources[name].condition,
            "bundle": sight.bundle.name, "version": sight.bundle.version, "digest": sight.bundle.digest,
            "runtime": sight.runtime_version, "started": sight.wall_ns, "seconds": sight.duration_ns / 1e9,
            "bytes": sight.size, "cut": sight.cut, "sessions": sight.sessions, "decisions": tally.decisions,
            "safe": sum(tally.safe.values()), "low_confidence": low, "as_live": tally.as_live,
            "disagreeing": sum(sight.apart.values()),
        }  # fmt: skip

    def _streams(self, name: str, sight: Sight) -> Iterator[dict[str, Any]]:
        for stream, seen in sight.streams.items():
            spec, ages = self._manifest.streams[stream], sight.tally.ages.get(stream, ())
            span_s = (seen.last_ns - seen.first_ns) / 1e9
            yield {
                "stream": stream, "kind": kind(spec), "messages": seen.messages,
                "rate_hz": (seen.messages - 1) / span_s if span_s > 0 else None, "expected_hz": spec.rate_hz,
                "gaps": seen.gaps, "longest_gap_ms": seen.longest_gap_ns / 1e6,
                "absent": sight.tally.absent.get(stream, 0), "age_p50_ms": percentile_ms(ages, 0.5),
                "age_p99_ms": percentile_ms(ages, 0.99),
            }  # fmt: skip

    def _channels(self, name: str, sight: Sight) -> Iterator[dict[str, Any]]:
        for stream, channels in sight.channels.items():
            for channel, seen in channels.items():
                edges = (
                    LOOKS.get(channel, SIGMA_EDGES) if kind(self._manifest.streams[stream]) == "camera" else SIGMA_EDGES
                )
                expected = self._known.histograms.get(stream, {}).get(channel, ())
                yield {
                    "stream": stream, "channel": channel, "readings": seen.readings,
                    "missing": seen.missing / max(1, sight.tally.decisions),
                    "low": seen.low if seen.readings else None, "high": seen.high if seen.readings else None,
                    "psi": stability(seen.bins, expected, len(edges) + 1) if seen.readings and expected else None,
                }  # fmt: skip

    def _reasons(self, name: str, sight: Sight) -> Iterator[dict[str, Any]]:
        for reason, count in sorted(sight.tally.safe.items()):
            yield {"reason": reason, "decisions": count}

    def _moments(self, name: str, sight: Sight) -> Iterator[dict[str, Any]]:
        apart = {stage: self._apart(stage, name, sight) for stage in self._stages}
        for number, moment in enumerate(sight.moments):
            yield {
                "seq": moment.seq, "captured_ns": moment.captured_ns, "at": moment.wall_ns, "recorded": moment.recorded,
                "label": moment.label, "other": moment.other, "confidence": moment.confidence, "margin": moment.margin,
                "source": moment.source, "reason": moment.reason,
                "share": self._labels.get(moment.label, 0) / self._decisions,
                "unlike": [(stage, values[number]) for stage, values in apart.items() if number in values],
                "fingerprint": msgspec.msgpack.encode(moment.fingerprint),
            }  # fmt: skip

    def _apart(self, stage: str, name: str, sight: Sight) -> dict[int, float]:
        """Number of a moment to how far its features are from what is usual."""
        known = self._known.neighbours.get(stage)
        numbers = [number for number, moment in enumerate(sight.moments) if stage in moment.features]
        if known is None or not numbers:
            return {}
        vectors = np.stack([np.frombuffer(sight.moments[number].features[stage], np.float32) for number in numbers])
        found = known.of(vectors, name)
        return {} if found is None else dict(zip(numbers, found.tolist(), strict=True))


def schema(arrow: Any, table: str) -> Any:
    """The columns of a table."""
    text, whole, real, yes = arrow.string(), arrow.int64(), arrow.float64(), arrow.bool_()
    when = arrow.timestamp("ns", tz="UTC")
    columns: dict[str, dict[str, Any]] = {
        "recordings": {
            "path": text, "condition": text, "bundle": text, "version": text, "digest": text, "runtime": text,
            "started": when, "seconds": real, "bytes": whole, "cut": yes, "sessions": whole, "decisions": whole,
            "safe": whole, "low_confidence": whole, "as_live": whole, "disagreeing": whole,
        },
        "streams": {
            "stream": text, "kind": text, "messages": whole, "rate_hz": real, "expected_hz": real, "gaps": whole,
            "longest_gap_ms": real, "absent": whole, "age_p50_ms": real, "age_p99_ms": real,
        },
        "channels": {
            "stream": text, "channel": text, "readings": whole, "missing": real, "low": real, "high": real, "psi": real,
        },
        "reasons": {"reason": text, "decisions": whole},
        "moments": {
            "seq": whole, "captured_ns": whole, "at": when, "recorded": text, "label": text, "other": text,
            "confidence": real, "margin": real, "source": text, "reason": text, "share": real,
            "unlike": arrow.map_(text, real), "fingerprint": arrow.binary(),
        },
        "features": {"stage": text, "seq": whole, "values": arrow.list_(arrow.float32())},
    }  # fmt: skip
    return arrow.schema([("recording", text), *columns[table].items()])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("an index needs PyArrow; pip install 'edge-runtime[fleet]'") from None
    return pyarrow, pyarrow.parquet
