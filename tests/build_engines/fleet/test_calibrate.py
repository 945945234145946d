"""The moments that stand for a fleet: the same ones whoever looked, as good by themselves as in their recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.fleet.recordings import Source, find
from build_engines.fleet.reservoir import Kept, Reservoir, Sampling, chosen, joined, named
from build_engines.fleet.task import encoded
from calibration.near import NOTHING
from calibration.recordings import read_recording, read_recordings
from calibration.samples import read_samples
from calibration.select import read_signed, signature
from edge_runtime.bundle import Bundle
from tests.build_engines.calling import call
from tests.build_engines.fleet.drives import GOOD, POISONED

SIZE = 4
KEPT = st.builds(
    Kept, st.text("0123456789abcdef", min_size=2, max_size=2), st.integers(0, 9), st.just(()), st.just(NOTHING)
)
POOL = st.builds(
    Reservoir, st.integers(0, 9), st.dictionaries(st.sampled_from("xy"), st.lists(KEPT, max_size=5).map(tuple))
)


@given(st.lists(POOL, min_size=3, max_size=3), st.permutations(range(3)))
def test_reservoirs_join_to_the_same_in_any_order(pools: list[Reservoir], order: Sequence[int]) -> None:
    parts = [named(pool, f"r{number}") for number, pool in enumerate(pools)]
    one = joined(joined(parts[0], parts[1], SIZE), parts[2], SIZE)
    a, b, c = (parts[number] for number in order)
    assert encoded(joined(a, joined(b, c, SIZE), SIZE)) == encoded(one)
    for label, moments in one.kept.items():
        digests = [moment.digest for moment in moments]
        every = {moment.digest for part in parts for moment in part.kept.get(label, ())}
        assert digests == sorted(every)[:SIZE]


def test_chosen_moments_feed_the_model_what_they_fed_it_in_their_recordings(
    fleet: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.mcap"
        options = ("--bundle", bundle.path, "--allow-unsigned", "--workers", workers)
        assert call(monkeypatch, "fleet", "calibrate", fleet, *options, "--count", 9, "--out", out) == 0
        files.append(out)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "9 of " in capfd.readouterr().out
    again, _ = read_signed(bundle, read_recordings([files[0]]), tmp_path)
    assert len(again) == 9 == len({one.group for one in again}), "each is a session of its own"
    everywhere = {}
    for source in find([fleet]):
        if source.id != POISONED:
            for sample in read_samples(bundle, read_recording(Path(source.path))):
                found = signature(0, sample, bundle.manifest.streams)
                everywhere[found.digest] = found.label
    for one in again:
        assert everywhere[one.digest] == one.label
    assert len({one.label for one in again}) == len(set(everywhere.values())), "every label that was decided"


def test_rare_labels_are_taken_whole_and_the_digest_does_not_depend_on_names(fleet: Path, bundle: Bundle) -> None:
    look = Sampling.of(bundle, 3).open()
    sources = {source.id: source for source in find([fleet]) if source.id in GOOD}
    parts = {name: look(Path(source.path)) for name, source in sources.items()}
    assert all(len(moments) <= 3 for part in parts.values() for moments in part.kept.values())
    whole = Reservoir(0, {})
    for name, part in parts.items():
        whole = joined(whole, named(part, name), 3)
    picked = chosen(whole, sources, 100)
    assert {one.label for one in picked} == set(whole.kept)
    other = {f"z{name}": Source(f"z{name}", source.path, source.condition) for name, source in sources.items()}
    renamed = Reservoir(0, {})
    for name, part in parts.items():
        renamed = joined(renamed, named(part, f"z{name}"), 3)
    assert [one.digest for one in chosen(renamed, other, 100)] == [one.digest for one in picked]
