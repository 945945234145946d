"""Choose the moments that stand for the field: spread over labels, conditions and groups, and none of them twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from calibration.samples import CalibrationSample
from edge_runtime.errors import GateRefused, UserError


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


def signature(index: int, sample: CalibrationSample) -> Signature:
    """The signature of the sample that came as number `index`."""
    total = hashlib.sha256()
    for source in sorted(sample.tensors):
        value = np.ascontiguousarray(sample.tensors[source])
        total.update(f"{source} {value.dtype} {value.shape}\0".encode())
        total.update(value.tobytes())
    return Signature(index, sample.id, sample.group, sample.label, sample.condition, total.hexdigest())


def choose(signatures: Iterable[Signature], count: int, seed: int) -> list[Signature]:
    """`count` of the distinct moments (or all, if there are fewer), in the order they came.

    The strata (label and condition) take turns, so that rare ones are taken whole before common ones are taken twice;
    within a stratum the groups take turns. The same signatures and seed give the same choice.
    """
    rng = np.random.default_rng(seed)
    distinct = list({one.digest: one for one in signatures}.values())
    strata: dict[tuple[str, str], list[Signature]] = defaultdict(list)
    for one in distinct:
        strata[one.label, one.condition].append(one)
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
    return sorted(chosen, key=lambda one: one.index)


def _by_turns(members: list[Signature], rng: np.random.Generator) -> Iterator[Signature]:
    """All members, each group giving one in turn, in random order."""
    groups: dict[str, list[Signature]] = defaultdict(list)
    for index in rng.permutation(len(members)):
        one = members[int(index)]
        groups[one.group].append(one)
    while groups:
        for name in list(groups):
            yield groups[name].pop()
            if not groups[name]:
                del groups[name]


def refuse_leak(chosen: Iterable[Signature], evaluation: Iterable[Signature]) -> None:
    """Raise GateRefused if a chosen moment is also one that is evaluated: the gate would judge what it has seen."""
    seen = {one.digest: one.id for one in evaluation}
    leaks = [(one.id, seen[one.digest]) for one in chosen if one.digest in seen]
    if leaks:
        first, other = leaks[0]
        more = f", and {len(leaks) - 1} more" if len(leaks) > 1 else ""
        raise GateRefused(
            f"calibrate: {len(leaks)} of the chosen moments are also evaluated ({first} equals {other}{more}); "
            "calibrate on data that is not evaluated"
        )
