"""The benchmarks run; what they measure is theirs to say."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from benchmarks.replay import STREAMS, count_rows, play, write_bundle
from edge_runtime.bundle import open_bundle

DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_the_replay_bundle_is_a_legal_one_stage_bundle(tmp_path: Path) -> None:
    assert len(open_bundle(write_bundle(tmp_path / "b"), allow_unsigned=True).manifest.stages) == 1


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 2.0), (10.0, 30.0)])
def test_recorded_streams_play_at_their_own_clocks_with_every_row_accounted_for(
    tmp_path: Path, speed: float, seconds: float
) -> None:
    data = DATA / "driving-sensor-replay"
    if not data.is_dir():
        pytest.skip(f"{data} is not there; set EDGE_RUNTIME_DATA to the folder of the data sets")
    for name in STREAMS:
        with (data / f"{name}.csv").open(newline="") as source, (tmp_path / f"{name}.csv").open("w") as target:
            reader = csv.reader(source)
            writer = csv.writer(target)
            writer.writerow(next(reader))
            writer.writerows(row for row in reader if float(row[0]) < seconds)
    status, decisions = play(tmp_path, speed)
    for name, stream in status.streams.items():
        assert stream.captured == count_rows(tmp_path / f"{name}.csv")
        assert stream.balanced
        assert stream.in_flight == 0
    assert decisions > seconds / speed * 2, "30 a second on a machine that does nothing else"
