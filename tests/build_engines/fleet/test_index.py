"""The index holds what the recordings hold, mining finds what was planted, and labels come back as training data."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.offline import record
from build_engines.data.samples import fields_of, read
from build_engines.fleet.drift import Neighbours, stability
from build_engines.fleet.labelling import LABELS, PAGE, take_labels
from build_engines.fleet.mine import picks
from build_engines.recipe import DatasetRecipe
from calibration.moments import replay
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame, Message, Sample
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.wire import DecisionMessage
from tests import tiny
from tests.build_engines.calling import call
from tests.build_engines.fleet.drives import CUT, FRAMES, GOOD, POISONED, START_NS, STEP_NS, messages
from tests.conftest import jpeg, noise

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")
from build_engines.fleet.index import TABLES, read_index
from build_engines.fleet.query import ask

CLEAN, FRAMES_LONG = 8, 24


def call_index(monkeypatch: pytest.MonkeyPatch, folder: Path, bundle: Bundle, out: Path, *more: object) -> int:
    options = ("--bundle", bundle.path, "--allow-unsigned", "--out", out, "--workers", 1)
    return call(monkeypatch, "fleet", "index", folder, *options, *more)


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def index(
    fleet: Path, bundle: Bundle, worse_bundle: Bundle, monkeymodule: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    out = tmp_path_factory.mktemp("index") / "index"
    assert call_index(monkeymodule, fleet, bundle, out, "--candidate", worse_bundle.path, "--every-ms", 0) == 0
    return out


def test_tables_hold_what_is_in_the_recordings(index: Path, fleet: Path) -> None:
    _, rows = ask(index, "SELECT recording, cut, decisions, safe, as_live, disagreeing FROM recordings ORDER BY 1")
    assert [row[0] for row in rows] == sorted([*GOOD, CUT])
    assert [row[0] for row in rows if row[1]] == [CUT]
    for name, _, decisions, safe, as_live, disagreeing in rows:
        recorded = [one for one in Recording(fleet / f"{name}.mcap").events() if isinstance(one, DecisionMessage)]
        assert decisions == as_live == len(recorded)
        assert safe == sum(one.source == "safe" for one in recorded)
        assert 0 < disagreeing <= decisions
    question = "SELECT messages, rate_hz, gaps, longest_gap_ms FROM streams WHERE recording='day/a' AND stream='camera'"
    assert ask(index, question)[1] == [(FRAMES, pytest.approx(10.0), 0, 100.0)]
    _, moments = ask(
        index, "SELECT count(*), min(unlike['vision']), max(confidence) FROM moments WHERE recording='day/a'"
    )
    assert moments[0][0] == FRAMES and moments[0][1] >= 0 and moments[0][2] <= 1
    read_back = read_index(index)
    assert set(read_back.left_out) == {POISONED} and read_back.cut == (CUT,)
    readings = sum(read_back.histograms["sensors"]["a"])
    _, counted = ask(index, "SELECT sum(readings) FROM channels WHERE channel = 'a'")
    assert counted == [(readings,)]


def test_two_workers_write_the_same_bytes(
    index: Path, fleet: Path, bundle: Bundle, worse_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--candidate", worse_bundle.path, "--every-ms", 0, "--workers", 2)
    assert call_index(monkeypatch, fleet, bundle, tmp_path, *more) == 0
    names = [f"{table}.parquet" for table in TABLES] + ["index.json"]
    assert [(tmp_path / name).read_bytes() == (index / name).read_bytes() for name in names] == [True] * len(names)


def test_a_question_that_is_none_and_an_index_that_is_none_are_one_line(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fleet", "query", index, "SELECT count(*) AS n FROM recordings") == 0
    assert "6" in capfd.readouterr().out
    assert call(monkeypatch, "fleet", "query", index, "SELECT nothing FROM recordings") == 2
    assert "the question is not understood" in capfd.readouterr().err
    with pytest.raises(UserError, match="build-engines fleet index makes one"):
        ask(tmp_path, "SELECT 1")


def planted(seed: int, plant: str) -> Iterator[Message]:
    """Steady drives, but for what is planted: a sensor that reads far too much, or a picture half of which is white."""
    rng = np.random.default_rng(seed)
    for number in range(FRAMES_LONG):
        at = START_NS + number * STEP_NS
        shift = 14.0 if plant == "drift" else 0.0
        yield Sample("sensors", number, at, {"a": float(rng.normal(1 + shift, 1)), "b": float(rng.uniform(3, 6))})
        if plant == "drift" and number == 10:
            continue
        image = noise(110 + int(rng.integers(0, 20)), seed * 1000 + number)
        if plant == "bright":
            image = np.maximum(image, 235).astype(np.uint8)
        yield Frame("camera", number, at, jpeg(image))


@pytest.fixture(scope="module")
def odd(
    bundle: Bundle, monkeymodule: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Recordings of which two are planted, and their index."""
    folder = tmp_path_factory.mktemp("odd")
    pipeline = Pipeline(bundle)
    for number, plant in enumerate([*[""] * CLEAN, "drift", "bright"]):
        record(folder / f"{plant or 'clean'}{number}.mcap", pipeline, START_NS, planted(number, plant))
    pipeline.close()
    assert call_index(monkeymodule, folder, bundle, folder / "index") == 0
    return folder, folder / "index"


def test_what_is_unlike_the_rest_comes_first_and_nothing_comes_twice(odd: tuple[Path, Path]) -> None:
    _, index = odd
    found = picks(index, count=4, ways=("unlike",), each=2)
    assert {pick.recording for pick in found[:2]} <= {"drift8", "bright9"}
    drifted = picks(index, count=4, ways=("drifted",), each=2)
    assert [pick.recording for pick in sorted(drifted, key=lambda pick: pick.recording)] == ["bright9", "drift8"], (
        "one finding each"
    )
    seen = picks(index, count=4, ways=("unlike vision",), each=2)
    assert seen[0].recording == "bright9" and all(pick.why.startswith("unlike: vision") for pick in seen)
    assert any("sensors a of the recording" in pick.why for pick in drifted)
    assert any("camera brightness of the recording" in pick.why for pick in drifted)
    assert picks(index, "label = 'nothing'") == []
    several = picks(index, count=50)
    assert len({(pick.recording, pick.seq) for pick in several}) == len(several)
    assert max(sum(one.recording == pick.recording for one in several) for pick in several) <= 3
    gaps = ask(index, "SELECT recording, longest_gap_ms FROM streams WHERE stream = 'camera' AND gaps > 0")
    assert gaps[1] == [("drift8", 200.0)]
    with pytest.raises(UserError, match="there is no way 'luck'"):
        picks(index, ways=("luck",))


def test_moments_that_are_nearly_the_same_are_picked_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(bundle)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        record(tmp_path / "two" / f"{name}.mcap", pipeline, START_NS, messages(3, night=False))
    pipeline.close()
    assert call_index(monkeypatch, tmp_path / "two", bundle, tmp_path / "index", "--every-ms", 0) == 0
    everything = picks(tmp_path / "index", ways=("unsure", "rare", "unlike"), each=100)
    assert {pick.recording for pick in everything} == {"a"}, "b holds the same moments"


def test_labels_come_back_as_training_data_with_the_inputs_of_the_moment(
    odd: tuple[Path, Path], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, index = odd
    out = tmp_path / "label"
    base = ("mine", "--bundle", bundle.path, "--allow-unsigned")
    assert call(monkeypatch, *base, "--index", index, "--out", out, "--way", "unlike", "--count", 4) == 0
    assert "unlike: " in capfd.readouterr().out
    assert (out / PAGE).read_text().count("data:image/jpeg") == 4
    assert call(monkeypatch, *base, "--labelled", out) == 2
    assert "nothing is labelled yet" in capfd.readouterr().err
    with (out / LABELS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["label"] == "" for row in rows)
    for row in rows[:3]:
        row["label"] = "high"
    with (out / LABELS).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert call(monkeypatch, *base, "--labelled", out) == 0
    fields = fields_of(bundle.manifest.streams)
    taken = list(read(out, "train", bundle.manifest.streams, DatasetRecipe(fields=fields, group="recording")))
    assert [moment.label for moment in taken] == ["high"] * 3
    assert [moment.id for moment in taken] == [row["id"] for row in rows[:3]]
    assert [moment.cluster for moment in taken] == [moment.id.split("/")[0] for moment in taken]
    for moment, aligned in replay(bundle.manifest.streams, taken):
        name, seq = moment.id.split("/")
        decided = _decided(folder / f"{name}.mcap", int(seq))
        newest = aligned.slices["sensors"].newest
        assert isinstance(newest, Sample) and newest.values == _sample(folder / f"{name}.mcap", decided)
        assert aligned.slices["camera"].present
    with pytest.raises(UserError, match="'high' is no label of the bundle"):
        take_labels(out, ("dark",))
    for line in (out / "train" / "samples.jsonl").read_text().splitlines():
        assert json.loads(line)["label"] == "high"


def _decided(path: Path, seq: int) -> DecisionMessage:
    return next(one for one in Recording(path).events() if isinstance(one, DecisionMessage) and one.seq == seq)


def _sample(path: Path, decision: DecisionMessage) -> dict[str, float]:
    """The last before it."""
    before = [
        one for one in Recording(path).events() if isinstance(one, Sample) and one.captured_ns <= decision.captured_ns
    ]
    return dict(before[-1].values)


def test_another_bundle_than_the_index_s_is_refused(
    odd: tuple[Path, Path], worse_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ("mine", "--index", odd[1], "--bundle", worse_bundle.path, "--allow-unsigned", "--out", tmp_path)
    assert call(monkeypatch, *command) == 2
    assert "the index was made with another bundle, tiny 1.0.0" in capfd.readouterr().err
    assert call(monkeypatch, "mine", "--index", odd[1]) == 2


def test_a_reference_index_says_what_is_usual(
    odd: tuple[Path, Path], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = odd
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / "drift8.mcap").symlink_to(folder / "drift8.mcap")
    assert call_index(monkeypatch, tmp_path / "drift", bundle, tmp_path / "alone") == 0
    assert call_index(monkeypatch, tmp_path / "drift", bundle, tmp_path / "beside", "--reference", index) == 0
    question = "SELECT psi FROM channels WHERE channel = 'a'"
    assert ask(tmp_path / "alone", question)[1] == [(0.0,)], "it is all that it knows"
    assert ask(tmp_path / "beside", question)[1][0][0] > 1.0


def test_the_stability_index_is_0_of_the_same_and_grows_with_the_shift() -> None:
    here = (40,) * 8
    assert stability(here, here, 10) == pytest.approx(0.0)
    shifted = [stability((*[0] * by, *here), here, 18) for by in (0, 1, 4, 8)]
    assert shifted == sorted(shifted) and shifted[0] < 0.01 and shifted[-1] > 1
    # By hand: shares 3/4 and 1/4 against 1/4 and 3/4 are log(3) apart, but for the smoothing.
    assert stability((3_000_000, 1_000_000), (1_000_000, 3_000_000), 2) == pytest.approx(np.log(3), rel=1e-4)


def test_what_is_odd_in_one_recording_is_far_however_much_of_it_there_is() -> None:
    rng = np.random.default_rng(1)
    names = [f"r{index // 20}" for index in range(400)]
    known = rng.normal(size=(400, 6)).astype(np.float32)
    known[:20] += 8.0
    neighbours = Neighbours(known, names)
    odd, plain = neighbours.of(known[:20], "r0"), neighbours.of(known[20:40], "r1")
    assert odd is not None and plain is not None
    assert odd.min() > 3 * plain.max()
    parts = [neighbours.of(known[20 * number : 20 * number + 20], f"r{number}") for number in range(20)]
    assert float(np.median(np.array(parts))) == pytest.approx(1.0)

    def by_hand(place: int) -> float:
        """400 // 50: to the 8th nearest of other recordings."""
        others = known[[name != names[place] for name in names]].astype(float)
        return float(np.sort(np.linalg.norm(others - known[place], axis=1))[7])

    apart, usual = by_hand(0), np.median([by_hand(place) for place in range(400)])
    assert odd[0] == pytest.approx(apart / usual, rel=1e-6)
    assert Neighbours(known[:5], ["a"] * 5).of(known[:5], "a") is None, "nothing is known of others"


def test_fields_are_where_the_layout_looks_for_them(bundle: Bundle) -> None:
    assert fields_of(bundle.manifest.streams) == {"camera": "image", "sensors": "sensors", "text": "text"}
    two = {"camera.front": tiny.STREAMS["camera"], "camera.back": tiny.STREAMS["camera"]}
    assert fields_of(two) == {"camera.front": "image", "camera.back": "camera_back"}
    assert msgspec.json.encode(fields_of(two))
