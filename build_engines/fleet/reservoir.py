"""The task of `calibrate`: of each recording the moments whose content has the smallest digests, label by label.

The smallest of all recordings together are a fair sample of their different moments, whoever looked at which recording,
and in what order (Broder 1997: bottom-k sketches).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from build_engines.artefacts import key_of
from build_engines.code import code_digest
from build_engines.fleet.recordings import Source
from calibration.near import Fingerprint
from calibration.recordings import read_recording
from calibration.samples import read_samples
from calibration.select import Signature, choose, signature
from edge_runtime.bundle import Bundle


class Kept(Struct, frozen=True):
    """A moment."""

    digest: str
    """Of what the model's stages are fed: equal digests, equal moments."""
    seq: int
    """Of its decision."""
    present: tuple[str, ...]
    fingerprint: Fingerprint
    recording: str = ""
    """Known once partials are put together: a partial is the same whatever its recording is called."""


class Reservoir(Struct, frozen=True):
    """The partial of a recording, or of several."""

    moments: int
    """Looked at."""
    kept: dict[str, tuple[Kept, ...]]
    """Label decided to the moments of the smallest digests, in their order."""


@dataclass(frozen=True)
class Sampling:
    """At most `size` moments of each label."""

    bundle: Bundle
    size: int
    code: str = ""

    @classmethod
    def of(cls, bundle: Bundle, size: int) -> Sampling:
        """By the code that is installed."""
        return cls(bundle, size, code_digest(("build_engines.fleet.reservoir",)))

    @property
    def key(self) -> str:
        return key_of(["sampling", self.size, self.code], {"bundle": self.bundle.digest})

    def open(self) -> Callable[[Path], Reservoir]:
        return self._look

    def _look(self, path: Path) -> Reservoir:
        streams = self.bundle.manifest.streams
        count = 0
        kept: dict[str, list[Kept]] = {}
        for sample in read_samples(self.bundle, read_recording(path)):
            count += 1
            found = signature(0, sample, streams)
            seq = int(found.id.rpartition("/")[2])
            moments = kept.setdefault(found.label, [])
            moments.append(Kept(found.digest, seq, found.present, found.fingerprint))
            if len(moments) >= 2 * self.size:
                kept[found.label] = _smallest(moments, self.size)
        return Reservoir(count, {label: tuple(_smallest(moments, self.size)) for label, moments in kept.items()})


def named(reservoir: Reservoir, recording: str) -> Reservoir:
    """With the name of the recording that it is of."""
    return Reservoir(
        reservoir.moments,
        {
            label: tuple(msgspec.structs.replace(moment, recording=recording) for moment in moments)
            for label, moments in reservoir.kept.items()
        },
    )


def joined(one: Reservoir, other: Reservoir, size: int) -> Reservoir:
    """The two together. Commutative and associative."""
    labels = sorted({*one.kept, *other.kept})
    return Reservoir(
        one.moments + other.moments,
        {
            label: tuple(_smallest([*one.kept.get(label, ()), *other.kept.get(label, ())], size)) for label in labels
        },
    )  # fmt: skip


def _smallest(moments: Iterable[Kept], size: int) -> list[Kept]:
    """Of equal moments, the first by name."""
    first: dict[str, Kept] = {}
    for moment in sorted(moments, key=lambda one: (one.digest, one.recording, one.seq)):
        first.setdefault(moment.digest, moment)
    return heapq.nsmallest(size, first.values(), key=lambda one: one.digest)


def chosen(reservoir: Reservoir, sources: Mapping[str, Source], count: int, seed: int = 0) -> list[Signature]:
    """`count` moments that stand for all: as the calibrate stage chooses, with a recording as group and its folder as
    condition. Their ids are `recording/number of the decision`. Raises UserError where there is none."""
    pool = sorted(
        (moment.digest, label, moment) for label, moments in reservoir.kept.items() for moment in moments
    )  # fmt: skip
    return choose(
        (
            Signature(
                index, f"{moment.recording}/{moment.seq}", moment.recording, label,
                sources[moment.recording].condition, digest, moment.present, moment.fingerprint,
            )
            for index, (digest, label, moment) in enumerate(pool)
        ),
        count, seed,
    )  # fmt: skip
