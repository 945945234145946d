"""A regression head, and heads beside it, through the whole line by its command; then live, recorded and replayed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from build_engines.recipe import load_recipe
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.config import Config, PublishConfig, RecordConfig, ZmqSource
from edge_runtime.errors import ConfigError
from edge_runtime.heads.regression import RegressionHead
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.pipeline import Pipeline
from edge_runtime.publish.subscriber import Subscriber
from edge_runtime.recording.reader import Recording
from edge_runtime.replay import recorded_answer, replay
from edge_runtime.runtime import Runtime
from tests.build_engines.calling import call
from tests.build_engines.samples_folder import RECIPE as WARD
from tests.build_engines.samples_folder import write_rows
from tests.conftest import running

POWER = '{ name = "power_w", unit = "W", minimum = 0.0, maximum = 2000.0, safe = 0.0, tolerance = 100.0 }'
LEVEL = '{ name = "level", unit = "1", minimum = -1.0, maximum = 1.0, safe = 0.0, tolerance = 0.1 }'
RECIPE = f"""
name = "heater"
version = "1.0.0"
layout = "samples"
head = "regression"
values = [{POWER}, {LEVEL}]
trigger = "sensors"
seed = 3

[dataset]
label = ""
group = "room"
targets = {{ power_w = "target.power", level = "target.level" }}
side_labels = {{ state = "target.state" }}

[streams.sensors]
kind = "sensors"
rate_hz = 10.0
max_age_ms = 1000.0
required = true
channels = [
  {{ name = "wanted_c", unit = "degC", minimum = 0.0, maximum = 40.0 }},
  {{ name = "found_c", unit = "degC", minimum = 0.0, maximum = 40.0 }},
]

[[side_heads]]
name = "state"
head = "softmax"
labels = ["cold", "warm"]
[side_heads.decision]
safe_label = "warm"
threshold = 0.6

[decision]
heartbeat_ms = 200.0

[model]
features = 16
[model.sensors]
stream = "sensors"
width = 32
layers = 2
dropout = 0.0
[model.fusion]
kind = "concat"
width = 32
dropout = 0.0

[calibrate]
samples = 32
near_leak = 0.9

[quantise]
stages = []

[compile]
targets = []

[gate]
min_gain = 0.01
nmae = 0.1
macro_f1_ratio = 0.9
class_drop = 0.2

[choose]
folds = 2

[train]
epochs = 60
batch = 32
learning_rate = 1e-2
label_smoothing = 0.0
average = 0.9
"""


def write_split(data: Path, split: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        wanted, found = rng.uniform(15, 30, 2)
        apart = wanted - found
        target = {
            "power": round(float(np.clip(1000 + 60 * apart, 0, 2000)), 2),
            "level": round(float(np.clip(-apart / 15, -1, 1)), 4),
            "state": "cold" if apart > 0 else "warm",
        }
        values = {"wanted_c": round(float(wanted), 3), "found_c": round(float(found), 3)}
        rows.append({"id": f"{split}-{index}", "room": f"{split} {index // 4}", "sensors": values, "target": target})
    write_rows(data, split, rows)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heater")
    (folder / "heater.toml").write_text(RECIPE)
    write_split(folder / "data", "train", 300, 1)
    write_split(folder / "data", "val", 80, 2)
    arguments = ("--data", folder / "data", "--out", folder / "out", "--work", folder / "work")
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "run", folder / "heater.toml", *arguments) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(built: Path) -> Bundle:
    return open_bundle(built / "out" / "heater", [built / "out" / "heater.pem"])


def test_the_bundle_has_both_heads_and_their_figures(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert isinstance(manifest.head, RegressionHead)
    (side,) = manifest.side_heads
    assert isinstance(side.head, SoftmaxHead) and side.name == "state"
    assert side.decision.threshold == 0.6 and side.decision.temperature != 1.0
    outputs = {out.name: out.shape for out in manifest.stages[-1].outputs}
    assert outputs == {"logits": (1, 2), "state": (1, 2)}
    assert manifest.figures["mae.power_w"] < 0.05 * 2000
    assert manifest.figures["mae.level"] < 0.05 * 2
    assert manifest.figures["state.f1_macro"] > 0.9


def test_the_report_and_the_gate_hold_the_mean_absolute_error_with_its_interval(bundle: Bundle) -> None:
    report = json.loads(bundle.read("report/evaluation.json"))
    span = report["findings"]["intervals"]["parts"]["power_w"]
    assert span["low"] < span["value"] < span["high"]
    assert span["value"] == pytest.approx(report["scores"]["values"]["power_w"]["mae"], abs=1e-5)
    assert set(report["side_heads"]) == {"state"}
    assert any(line.startswith("side head state: macro-F1") for line in report["headline"])
    gate = {one["name"]: one for one in json.loads(bundle.read("report/gate.json"))[0]}
    part = gate["fp32"]["parts"]["power_w"]
    assert part["low"] < part["value"] < part["high"]
    assert {"power_w", "level", "state.cold", "state.warm"} == set(gate["plan"]["parts"])
    assert "| power_w | " in bundle.read("report/gate.md").decode()
    assert "mean absolute error" in bundle.read("report/evaluation.md").decode()


def test_evaluate_and_degrade_speak_of_values(
    built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--bundle", built / "out" / "heater", "--data", built / "data", "--allow-unsigned")
    lines = tmp_path / "lines.jsonl"
    assert call(monkeypatch, "evaluate", *arguments, "--predictions", lines, "--rival", built / "out" / "heater") == 0
    said = capsys.readouterr().out
    assert "power_w" in said and "not proven better or worse" in said.replace("\n", " ")
    one = json.loads(lines.read_text().splitlines()[0])
    assert set(one["values"]) == set(one["truth_values"]) == {"power_w", "level"}
    assert call(monkeypatch, "evaluate", *arguments, "--improve", tmp_path / "improve") == 2
    assert "improve: a regression head has neither thresholds" in capsys.readouterr().err.replace("\n", " ")


def test_compare_says_that_it_is_for_labels(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (built / "heater.toml", "--data", built / "data", "--work", built / "work")
    assert call(monkeypatch, "compare", *arguments) == 2
    assert "compare: is for heads with labels" in capsys.readouterr().err.replace("\n", " ")


def test_a_reference_that_is_further_off_than_the_recipe_allows_is_refused(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "poor.toml").write_text(RECIPE.replace("nmae = 0.1", "nmae = 0.0001"))
    arguments = ("--data", built / "data", "--out", tmp_path / "out", "--work", built / "work")
    assert call(monkeypatch, "gate", tmp_path / "poor.toml", *arguments) == 3
    assert re.search(r"mean absolute error .*% of the range \(at most 0.01%\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("safe = 0.0, tolerance = 100.0", "safe = 3000.0", "power_w: safe 3000 is not within 0 to 2000"),
        ("minimum = -1.0, maximum = 1.0", "minimum = 1.0, maximum = -1.0", "minimum 1 is not below maximum -1"),
        (
            'level = "target.level"',
            'levle = "target.level"',
            "dataset.targets must name the field of 'level'",
        ),
        ("heartbeat_ms = 200.0", "heartbeat_ms = 200.0\nhold = 2", "decision.hold is set, which a regression head"),
        ("threshold = 0.6", "threshold = 0.6\nheartbeat_ms = 100.0", "side head state: decision.heartbeat_ms is set"),
        ("nmae = 0.1", "macro_f1 = 0.5", "gate.macro_f1 judges no regression head; set gate.nmae"),
        ('side_labels = { state = "target.state" }', "", "dataset.side_labels must name the field of 'state'"),
        (
            'head = "softmax"\nlabels = ["cold", "warm"]\n[side_heads.decision]\nsafe_label = "warm"\nthreshold = 0.6',
            f'head = "regression"\nvalues = [{LEVEL}]',
            "two heads answer with 'level' of dataset.targets",
        ),
        ('name = "state"', 'name = "window"', "side_heads must have distinct names, none of"),
        ('head = "regression"', 'head = "regresion"', "kinds of heads are softmax, sigmoid, tagging, regression"),
        (f"values = [{POWER}, {LEVEL}]", "", "head = 'regression': Object missing required field `values`"),
    ],
)
def test_contradictions_of_the_recipe_are_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in RECIPE
    (tmp_path / "wrong.toml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        load_recipe(tmp_path / "wrong.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"power": None}, "the value 'power_w' must be a finite number"),
        ({"power": True}, "target.power is True; it must be a number or null"),
        ({"power": 2001.0}, "power_w is 2001, outside 0 to 2000"),
        ({"state": "hot"}, "label 'hot' is none of cold, warm"),
    ],
)
def test_data_that_does_not_tell_is_one_line(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: dict[str, Any], expected: str,
) -> None:  # fmt: skip
    for split in ("train", "val"):
        lines = (built / "data" / split / "samples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        rows[3]["target"] |= change
        write_rows(tmp_path / "data", split, rows)
    arguments = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert call(monkeypatch, "run", built / "heater.toml", *arguments, "--to", "train") == 2
    said = capsys.readouterr().err.strip()
    assert expected in " ".join(said.split()) and "Traceback" not in said


def test_it_runs_live_records_and_replays(built: Path, tmp_path: Path) -> None:
    config = Config(
        name="heater",
        bundle=str(built / "out" / "heater"),
        trusted_keys=(str(built / "out" / "heater.pem"),),
        source=(ZmqSource("tcp://127.0.0.1:*"),),
        publish=PublishConfig("tcp://127.0.0.1:*"),
        record=RecordConfig(str(tmp_path / "run.mcap")),
    )
    with running(Runtime(config)) as runtime, Subscriber(runtime.decisions_endpoint, timeout_s=20) as subscriber:
        silent = next(iter(subscriber))
        assert (silent.label, silent.source, silent.values) == ("safe", "safe", {"power_w": 0.0, "level": 0.0})
        assert isinstance(silent.heads, dict)
        assert (silent.heads["state"].label, silent.heads["state"].source) == ("warm", "safe")
        with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
            sender.connect(runtime.input_endpoints[0])
            values = {"wanted_c": 28.0, "found_c": 18.0}
            sender.send_json({"schema": 1, "stream": "sensors", "values": values, "id": "a"})
            live = next(one for one in subscriber if one.inputs["sensors"].id == "a" and one.source == "model")
        assert live.label == "values" and live.schema == 1
        assert isinstance(live.values, dict) and isinstance(live.heads, dict)
        assert live.values["power_w"] == pytest.approx(1600, abs=200)
        assert live.values["level"] == pytest.approx(-10 / 15, abs=0.2)
        assert live.heads["state"].label == "cold" and live.heads["state"].probabilities["cold"] > 0.6
    file = next(tmp_path.glob("run*.mcap"))
    bundle = open_bundle(built / "out" / "heater", allow_unsigned=True)
    pairs = [(recorded_answer(old), new) for old, new in replay(Recording(file), lambda _: Pipeline(bundle))]
    assert len(pairs) > 1 and all(old.differences(new) == [] for old, new in pairs)
    assert any(new.values == live.values for _, new in pairs)
    assert run_command(commands, ["replay", str(file), "--allow-unsigned", "--check"]) == 0
    assert run_command(commands, ["bundle", "verify", str(built / "out" / "heater"), "--allow-unsigned"]) == 0


def test_a_label_head_acts_and_values_stand_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.build_engines.samples_folder import write_samples

    value = '{ name = "spo2", unit = "%", minimum = 0.0, maximum = 100.0, safe = 0.0 }'
    side = f'[[side_heads]]\nname = "oxygen"\nhead = "regression"\nvalues = [{value}]\n\n[decision]'
    recipe = WARD.replace("[decision]", side, 1).replace(
        'label = "finding.code"', 'label = "finding.code"\ntargets = { spo2 = "finding.spo2" }'
    )
    (tmp_path / "ward.toml").write_text(recipe.replace("[gate]", "[gate]\nmae_ratio = 1.5\nmae_slack = 0.01"))
    for split, count, seed in (("train", 120, 1), ("val", 60, 2)):
        rows = write_samples(tmp_path / "data", split, count, seed)
        for row in rows:
            row["finding"] |= {"spo2": 80.0 if row["finding"]["code"] else 95.0}  # type: ignore[operator,index,call-overload]
        write_rows(tmp_path / "data", split, rows)
    arguments = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert call(monkeypatch, "run", tmp_path / "ward.toml", *arguments) == 0
    manifest = open_bundle(tmp_path / "out" / "ward", allow_unsigned=True).manifest
    assert manifest.head.kind == "sigmoid" and manifest.side_heads[0].head.kind == "regression"
    assert manifest.figures["f1_macro"] > 0.85
    assert manifest.figures["oxygen.nmae_score"] > 0.9
