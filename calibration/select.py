"""Choose the moments that stand for the field: spread over labels, conditions and groups, and none of them twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from calibration.moments import LabelledSet
from calibration.near import NOTHING, Fingerprint, dhash, first_of_each, mean_colours, pairs
from calibration.samples import CalibrationSample, SampleStore, read_samples
from calibration.spread import spread
from edge_runtime.bundle import Bundle
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.streams import StreamSpec, kind_of
from edge_runtime.tensor_source import TensorSource

MANY_DOUBLES = 4
"""Where moments come more often than this on average, as frames of a camera that hangs do, it is said."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What is remembered of a moment while choosing: enough to tell equal moments, and small."""

    index: int
    id: str
    group: str
    label: str
    condition: str
    digest: str
    """sha256 over the tensors that its streams gave: equal digests mean equal inputs of every stage."""
    present: tuple[str, ...] = ()
    """The streams that were there."""
    fingerprint: Fingerprint = NOTHING
    """By which nearly equal moments are told."""


def signature(index: int, sample: CalibrationSample, streams: Mapping[str, StreamSpec]) -> Signature:
    """The signature of the sample that came as number `index`. `streams`: how the bundle declares them, which says by
    what each of their tensors is nearly another."""
    every, exact = hashlib.sha256(), hashlib.sha256()
    hashes: list[int] = []
    colours, readings = b"", b""
    for source in sorted(sample.tensors, key=str):
        value = np.ascontiguousarray(sample.tensors[source])
        described = f"{source} {value.dtype} {value.shape}\0".encode() + value.tobytes()
        every.update(described)
        likeness = _likeness(source, streams)
        if likeness == "picture":
            hashes += [dhash(picture) for picture in value]
            colours += b"".join(map(mean_colours, value))
        elif likeness == "readings":
            readings += value.astype(np.float32).tobytes()
        else:
            exact.update(described)
    fingerprint = Fingerprint(exact.hexdigest(), tuple(hashes), colours, readings)
    about = (sample.id, sample.group, sample.label, sample.condition)
    return Signature(index, *about, every.hexdigest(), sample.present, fingerprint)


def read_signed(
    bundle: Bundle, moments: Iterable[LabelledSet], folder: Path | None = None
) -> tuple[list[Signature], SampleStore]:
    """The signature of every moment, and the moments as the stages of `bundle` would see them, put away in `folder`. By
    all cores."""
    store = SampleStore(folder)
    signatures = []
    for index, (unnumbered, sample) in enumerate(spread(partial(_signing, bundle), moments, _group_of)):
        signatures.append(replace(unnumbered, index=index))
        store.keep(sample)
    return signatures, store


def _group_of(moment: LabelledSet) -> str:
    return moment.group


def _signing(bundle: Bundle) -> Callable[[Iterator[LabelledSet]], Iterator[tuple[Signature, CalibrationSample]]]:
    streams = bundle.manifest.streams
    return lambda moments: ((signature(0, sample, streams), sample) for sample in read_samples(bundle, moments))


def _likeness(source: TensorSource, streams: Mapping[str, StreamSpec]) -> str:
    if source.kind != "stream":
        return "exact"
    spec = streams[source.name]
    return kind_of(spec).fields(spec)[source.field].likeness


def without_doubles(signatures: Iterable[Signature]) -> list[Signature]:
    """The moments, of those that are equal or (within a label) near each other only one, in the order they came."""
    distinct = list({signature.digest: signature for signature in signatures}.values())
    places = first_of_each([moment.fingerprint for moment in distinct], [moment.label for moment in distinct])
    return [distinct[place] for place in places]


def choose(signatures: Iterable[Signature], count: int, seed: int) -> list[Signature]:
    """`count` of the distinct moments (or all, if there are fewer), in the order they came; see `without_doubles`.

    The strata (label and condition) take turns, so that rare ones are taken whole before common ones are taken twice;
    within a stratum the groups take turns. The same signatures and seed give the same choice.
    """
    rng = np.random.default_rng(seed)
    strata: dict[tuple[str, str], list[Signature]] = defaultdict(list)
    for double in without_doubles(signatures):
        strata[double.label, double.condition].append(double)
    queues = {name: list(_by_turns(members, rng)) for name, members in sorted(strata.items())}
    chosen: list[Signature] = []
    while len(chosen) < count and queues:
        for name in list(queues):
            if len(chosen) == count:
                break
            chosen.append(queues[name].pop(0))
            if not queues[name]:
                del queues[name]
    if not chosen:
        raise UserError("calibrate: the data holds no labelled moment to choose from; check the data and the split")
    return sorted(chosen, key=lambda signature: signature.index)


def _by_turns(members: list[Signature], rng: np.random.Generator) -> Iterator[Signature]:
    """All members, each group giving one in turn, in random order."""
    groups: dict[str, list[Signature]] = defaultdict(list)
    for index in rng.permutation(len(members)):
        member = members[int(index)]
        groups[member.group].append(member)
    while groups:
        for name in list(groups):
            yield groups[name].pop()
            if not groups[name]:
                del groups[name]


def narrowness(
    everything: Sequence[Signature], chosen: Sequence[Signature], evaluation: Sequence[Signature]
) -> list[str]:
    """What the chosen moments lack, in words: labels that are evaluated, or variety.

    Raises GateRefused if they are one moment over and over, or all of one label, where more than one is evaluated.
    """
    distinct = without_doubles(everything)
    if len(distinct) == 1 < min(len(everything), len(evaluation)):
        raise GateRefused(
            f"calibrate: its {len(everything)} moments are only one, {distinct[0].id}, over and over; check the data "
            "and its path: ranges must come from what the field brings"
        )
    labels, evaluated = {moment.label for moment in chosen}, {moment.label for moment in evaluation}
    if len(labels) == 1 < len(evaluated):
        raise GateRefused(
            f"calibrate: all its moments are of one label, {labels.pop()}, of the {len(evaluated)} that are evaluated; "
            "check the data and its path: ranges must come from what the field brings"
        )
    lacking = sorted(evaluated - labels)
    lacks = [f"no moment of the labels {', '.join(lacking)}, which are evaluated"] if lacking and chosen else []
    if len(distinct) * MANY_DOUBLES < len(everything):
        lacks.append(f"only {len(distinct)} of its {len(everything)} moments differ")
    return lacks


def without_evaluated(
    distinct: Sequence[Signature], evaluation: Sequence[Signature], most: float
) -> tuple[list[Signature], int]:
    """`distinct` moments without those that are exactly evaluated too, and how many those were: the gate must not
    judge what calibration has seen.

    Raises GateRefused if more than the part `most` of `distinct`, or of the different ones in `evaluation`, are in
    both. A few may be: in collections of sentences the short ones come twice by nature.
    """
    seen = {moment.digest: moment.id for moment in evaluation}
    kept = [moment for moment in distinct if moment.digest not in seen]
    shared = [moment for moment in distinct if moment.digest in seen]
    share = len(shared) / max(1, min(len(distinct), len(seen)))
    if share > most:
        first = shared[0]
        more = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise GateRefused(
            f"calibrate: {len(shared)} of {len(distinct)} moments are also among the {len(seen)} that are evaluated "
            f"({first.id} equals {seen[first.digest]}{more}): {share:.1%}, more than calibrate.duplicates = {most:g} "
            "allows; calibrate on data that is not evaluated, or raise it where equal moments come by nature"
        )
    return kept, len(shared)


def refuse_near(chosen: Sequence[Signature], evaluation: Sequence[Signature], most: float) -> int:
    """How many chosen moments are nearly ones that are evaluated.

    Raises GateRefused if more than the part `most` of them are. A few may be: two drives can wait at the same light.
    """
    near = list(pairs([moment.fingerprint for moment in chosen], [moment.fingerprint for moment in evaluation]))
    if len(near) > most * len(chosen):
        calibrated, evaluated = chosen[near[0][0]].id, evaluation[near[0][1]].id
        raise GateRefused(
            f"calibrate: {len(near)} of {len(chosen)} chosen moments are nearly ones that are evaluated (such as "
            f"{calibrated} and {evaluated}), more than calibrate.near_leak = {most:g} allows: calibrate on "
            "other data"
        )
    return len(near)
