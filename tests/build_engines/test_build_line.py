"""The whole line by its command: recipe and data to a bundle that the device opens, and its evaluation."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from build_engines import code
from build_engines.compile import find_compiler
from build_engines.data.world import read
from build_engines.quantisation import quantise
from calibration.moments import admitted
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.clock import RealClock
from edge_runtime.config import Config, RecordConfig
from edge_runtime.errors import BundleError
from edge_runtime.messages import Frame
from edge_runtime.pipeline import Pipeline
from edge_runtime.publish.sink import published
from edge_runtime.recording.recorder import Recorder
from edge_runtime.wire import BundleId, DecisionMessage, Latency
from tests.build_engines.calling import call
from tests.conftest import tiny_config
from tests.test_runtime import driving


@pytest.fixture(scope="module")
def built(recipe_file: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        code = call(patch, "run", recipe_file, "--data", world, "--out", folder / "out", "--work", folder / "work")
    assert code == 0
    return folder


def test_the_bundle_opens_and_lists_everything(built: Path) -> None:
    bundle = open_bundle(built / "out" / "tiny", [built / "out" / "tiny.pem"])
    manifest = bundle.manifest
    assert bundle.signed_by == "tiny"
    assert manifest.presence == ("camera.front", "text", "sensors")
    assert {stage.name for stage in manifest.stages} == {"vision", "text", "sensors", "fusion"}
    reports = {
        "evaluation.json",
        "evaluation.md",
        "gate.md",
        "gate.png",
        "gate.json",
        "calibration.md",
        "calibration.png",
    }
    assert "report/trial.json" not in manifest.files, "the recipe says nothing of it"
    assert {"tokenizer.model", *(f"report/{name}" for name in reports)} <= set(manifest.files)
    assert manifest.figures["f1_macro"] > 0.8
    report = json.loads(bundle.read("report/evaluation.json"))
    assert report["scores"]["count"] == 128
    assert len(report["modalities"]) == 7
    assert report["modalities"]["camera.front + text + sensors"]["f1_macro"] > max(
        report["modalities"][name]["f1_macro"] for name in manifest.presence
    )
    Pipeline(bundle).close()


def test_a_bundle_that_is_built_again_is_the_same_to_the_byte_but_for_the_times_in_its_report(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "run", recipe_file, "--data", world, "--out", out, "--work", tmp_path / "work") == 0
    one, two = (open_bundle(folder / "tiny", allow_unsigned=True) for folder in (built / "out", out))
    digests, again = one.manifest.files, two.manifest.files
    assert digests.keys() == again.keys()
    timed = {f"report/evaluation.{form}" for form in ("html", "json", "md")}
    assert {name for name in digests if digests[name] != again[name]} <= timed
    assert msgspec.structs.replace(one.manifest, files={}) == msgspec.structs.replace(two.manifest, files={})
    reports = [json.loads(bundle.read("report/evaluation.json")) for bundle in (one, two)]
    for report in reports:
        del report["findings"]["latency_ms"]
    assert reports[0] == reports[1]


def test_no_weights_are_pickled(built: Path) -> None:
    names = {path.suffix for path in (built / "work" / "tiny").rglob("*") if path.is_file()}
    assert not names & {".pt", ".pth", ".pkl", ".joblib"}


def test_evaluate_writes_scores_and_every_decision(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, lines = tmp_path / "scores.json", tmp_path / "decisions.jsonl"
    arguments = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert call(monkeypatch, *arguments, "--json", scores, "--predictions", lines) == 0
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(decisions) == json.loads(scores.read_text())["scores"]["count"] == 128
    assert all(one["source"] == "model" for one in decisions)
    right = sum(one["label"] == one["truth"] for one in decisions) / len(decisions)
    assert right == pytest.approx(json.loads(scores.read_text())["scores"]["accuracy"])


def test_a_dropped_required_stream_gives_safe_decisions_and_text_its_own_truth(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "decisions.jsonl"
    arguments = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert call(monkeypatch, *arguments, "--drop", "camera", "--predictions", lines) == 0
    assert {json.loads(line)["source"] for line in lines.read_text().splitlines()} == {"safe"}
    assert call(monkeypatch, *arguments, "--drop", "text", "--predictions", lines) == 0
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert "three" not in {one["truth"] for one in decisions}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--split", "nowhere"), 2),
        (("--drop", "lidar"), 2),
        (("--layout", "moon"), 2),
        (("--no-such-option",), 2),
    ],
)
def test_mistakes_are_one_line(
    built: Path,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
) -> None:
    base = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert call(monkeypatch, *base, *arguments) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unsigned_bundle_needs_the_flag(built: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "evaluate", "--bundle", built / "out" / "tiny", "--data", world) == 2


def test_every_precision_is_there_and_the_plan_is_the_chosen_one(built: Path) -> None:
    manifest = open_bundle(built / "out" / "tiny", allow_unsigned=True).manifest
    files = {stage.name: set(stage.files) for stage in manifest.stages}
    assert files["vision"] == files["text"] == {"fp32", "fp16", "int8"}
    assert files["sensors"] == files["fusion"] == {"fp32", "fp16"}
    chosen = json.loads((built / "work" / "tiny" / "quantised" / "plan.json").read_text())["choices"]
    assert manifest.precision["tensorrt"] == {name: choice["precision"] for name, choice in chosen.items()}
    assert set(manifest.precision["default"].values()) == {"fp32"}
    assert "int8" in manifest.precision["tensorrt"].values()
    bundle = open_bundle(built / "out" / "tiny", allow_unsigned=True)
    Pipeline(bundle, plan=manifest.precision["tensorrt"]).close()


@pytest.mark.skipif(find_compiler() is None, reason="no compiler for engines on this platform")
def test_engines_are_compiled_for_every_target_and_named_in_the_manifest(built: Path) -> None:
    bundle = open_bundle(built / "out" / "tiny", allow_unsigned=True)
    engines = {engine.stage: engine for engine in bundle.manifest.engines}
    assert {name: engine.precision for name, engine in engines.items()} == bundle.manifest.precision["tensorrt"]
    for engine in engines.values():
        assert engine.compute == ("8.6", "8.9", "12.0")
        assert bundle.read(engine.file)[:4] == b"vtrt"


def test_nothing_is_built_twice_and_a_changed_limit_only_judges_again(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work = tmp_path / "work"
    shutil.copytree(built / "work", work)
    base = ("--data", world, "--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, "run", recipe_file, *base) == 0
    stands = "nothing has changed since it last ran"
    assert capsys.readouterr().out.count(stands) == 8
    strict = tmp_path / "strict.toml"
    strict.write_text(recipe_file.read_text().replace("min_gain = 0.01", "min_gain = 0.99\nfallback = false"))
    assert call(monkeypatch, "run", strict, *base) == 3
    said = capsys.readouterr()
    assert said.out.count(stands) == 5
    assert "not 99% smaller" in said.err
    # Failed closed: the candidate that stood before is gone, and nothing can be signed.
    assert not (work / "tiny" / "candidate").exists()
    assert call(monkeypatch, "bundle", strict, *base) == 2


def test_a_changed_quantiser_builds_again_what_it_made(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work = tmp_path / "work"
    shutil.copytree(built / "work", work)
    base = ("--data", world, "--out", tmp_path / "out", "--work", work, "--to", "quantise")
    assert call(monkeypatch, "run", recipe_file, *base) == 0
    assert capsys.readouterr().out.count("nothing has changed") == 6
    original = code.source_of
    changed = tmp_path / "quantise.py"
    changed.write_bytes(Path(str(quantise.__file__)).read_bytes() + b"\n# another way to quantise\n")
    monkeypatch.setattr(code, "source_of", lambda name: changed if name == quantise.__name__ else original(name))
    assert call(monkeypatch, "run", recipe_file, *base) == 0
    said = capsys.readouterr().out
    assert "quantise: nothing has changed" not in said
    assert all(f"{stage}: nothing has changed" in said for stage in ("train", "export", "aggregate"))


def test_a_missed_floor_exits_3(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The labels of the evaluation split are exchanged: the gate says so."""
    data, work = tmp_path / "data", tmp_path / "work"
    shutil.copytree(world, data)
    shutil.copytree(built / "work", work)
    lines = (data / "val" / "messages.jsonl").read_text()
    for old, new in (("one", "x"), ("two", "one"), ("x", "two")):
        lines = lines.replace(f'"label": "{old}"', f'"label": "{new}"')
    (data / "val" / "messages.jsonl").write_text(lines)
    base = ("--data", data, "--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, "run", recipe_file, *base, "--from", "calibrate", "--force") == 3
    assert "the labels look swapped: it says" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_calibration_on_noise_or_on_what_is_evaluated_exits_3(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    noisy, same, work = tmp_path / "noisy", tmp_path / "same", tmp_path / "work"
    shutil.copytree(built / "work", work)
    for data in (noisy, same):
        shutil.copytree(world, data)
    for index, path in enumerate(sorted((noisy / "train" / "frames").iterdir())):
        dark = np.random.default_rng(index).integers(0, 12, (16, 16, 3)).astype(np.uint8)
        path.write_bytes(cv2.imencode(".jpg", dark)[1].tobytes())
    arguments = ("--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, "calibrate", recipe_file, "--data", noisy, *arguments) == 3
    assert "do not fit the evaluation split" in capsys.readouterr().err
    shutil.rmtree(same / "train")
    shutil.copytree(same / "val", same / "train")
    assert call(monkeypatch, "calibrate", recipe_file, "--data", same, *arguments) == 3
    assert "calibrate on data that is not evaluated" in capsys.readouterr().err


def test_a_stage_without_what_it_needs_names_those_before_it(
    recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("quantise", recipe_file, "--data", world, "--work", tmp_path)
    assert call(monkeypatch, *arguments) == 2
    assert "(choose, train, export, aggregate, calibrate); run with --from choose" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_any_flipped_byte_of_a_built_bundle_is_refused(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    copy = tmp_path / "tiny"
    shutil.copytree(built / "out" / "tiny", copy)
    keys = [built / "out" / "tiny.pem"]
    for path in sorted(one for one in copy.rglob("*") if one.is_file()):
        original = path.read_bytes()
        for place in {0, len(original) - 2, *rng.integers(0, len(original) - 1, 4).tolist()}:
            changed = bytearray(original)
            changed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            with pytest.raises(BundleError):
                open_bundle(copy, keys)
        path.write_bytes(original)
    open_bundle(copy, keys)


def test_a_folder_that_is_no_bundle_is_not_replaced(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("precious")
    shutil.copytree(built / "work", tmp_path / "work")
    arguments = ("run", recipe_file, "--data", world, "--out", tmp_path, "--work", tmp_path / "work")
    assert call(monkeypatch, *arguments, "--from", "bundle", "--to", "bundle") == 2
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "precious"


def record_live(bundle: Path, split: Path, path: Path, moments: int) -> None:
    """What a split holds, sent to a live runtime over its socket, each frame after the answer to the one before."""
    configuration = msgspec.structs.replace(tiny_config(bundle), record=RecordConfig(str(path)))
    lines = [json.loads(line) for line in (split / "messages.jsonl").read_text().splitlines()]
    with driving(configuration) as (_, vehicle):
        for number, line in enumerate(lines[: 4 * moments]):
            head = {"schema": 1, "stream": line["stream"], "captured_ns": time.monotonic_ns(), "id": str(number)}
            if "frame" not in line:
                vehicle.socket.send_json(head | {key: line[key] for key in ("values", "text") if key in line})
                continue
            picture = (split / line["frame"]).read_bytes()
            vehicle.socket.send_multipart([json.dumps(head).encode(), picture])
            while not (vehicle.decisions and vehicle.decisions[-1].inputs["camera.front"].id == str(number)):
                vehicle.read()


def record_offline(bundle: Bundle, data: Path, split: str, path: Path, noise: bool = False) -> None:
    """A split as a recording: every episode a session, every labelled moment a decision."""
    recorder = Recorder(path, RealClock())
    manifest = bundle.manifest
    identity = BundleId(manifest.name, manifest.version, bundle.digest)
    sets = read(data, split, manifest.streams)
    for number, (moment, begins, messages) in enumerate(admitted(manifest.streams, sets)):
        if begins:
            recorder.session(Config("x", "b", ()), identity, manifest.streams)
        for message in messages:
            if noise and isinstance(message, Frame):
                dark = np.random.default_rng(number).integers(0, 12, (16, 16, 3), dtype=np.uint8)
                message = msgspec.structs.replace(message, picture=dark, pixels=None)  # noqa: PLW2901
            recorder.message(message)
        said = DecisionMessage(
            1, "x", identity, number, moment.reference_ns, moment.reference_ns, "", moment.label, 1.0, {}, [],
            "model", None, {}, Latency(0.0, 0.0, 0.0, {}, 0.0), {}, {}, {},
        )  # fmt: skip
        recorder.publish(published(said))
    recorder.close()


@pytest.fixture
def from_recordings(recipe_file: Path, tmp_path: Path) -> Path:
    """The recipe, calibrating from drive.mcap beside it."""
    path = tmp_path / "tiny.toml"
    text = recipe_file.read_text()
    assert "[calibrate]\n" in text
    path.write_text(text.replace("[calibrate]\n", '[calibrate]\nrecordings = ["drive.mcap"]\n'))
    return path


def test_a_recorded_live_run_can_be_calibrated_from(
    built: Path, from_recordings: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work = tmp_path / "work"
    shutil.copytree(built / "work", work)
    arguments = ("calibrate", from_recordings, "--data", world, "--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, *arguments) == 2
    assert "drive.mcap: cannot be read" in capsys.readouterr().err
    record_live(built / "out" / "tiny", world / "train", tmp_path / "drive.mcap", 200)
    assert call(monkeypatch, *arguments) == 0
    ranges = json.loads((work / "tiny" / "calibration" / "ranges.json").read_text())
    assert len(ranges["samples"]) == 64
    assert all(name.startswith("drive/") for name in ranges["samples"])
    assert "| drive |" in (work / "tiny" / "calibration" / "coverage.md").read_text()
    capsys.readouterr()
    assert call(monkeypatch, *arguments) == 0
    assert "nothing has changed" in capsys.readouterr().out
    (tmp_path / "drive.mcap").unlink()
    record_live(built / "out" / "tiny", world / "train", tmp_path / "drive.mcap", 220)
    assert call(monkeypatch, *arguments) == 0
    assert "nothing has changed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("split", "noise", "message"),
    [
        ("train", True, "do not fit the evaluation split"),
        ("val", False, "calibrate on data that is not evaluated"),
    ],
)
def test_a_recording_of_noise_or_of_what_is_evaluated_exits_3(
    built: Path, from_recordings: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], split: str, noise: bool, message: str,
) -> None:  # fmt: skip
    work = tmp_path / "work"
    shutil.copytree(built / "work", work)
    bundle = open_bundle(built / "out" / "tiny", allow_unsigned=True)
    record_offline(bundle, world, split, tmp_path / "drive.mcap", noise)
    arguments = ("calibrate", from_recordings, "--data", world, "--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, *arguments) == 3
    assert message in capsys.readouterr().err
