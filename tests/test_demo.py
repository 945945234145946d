"""The demo and the shipped bundles, whole: real processes, real sockets, real time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import zmq

from edge_runtime import schema
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path, shipped
from edge_runtime.config import Config, PublishConfig, WorldSource
from edge_runtime.runtime import Runtime
from tests.conftest import WAIT_S, running

MAX_BUNDLE_BYTES = 8 << 20
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_the_demo_ends_by_itself_and_shows_what_it_promises() -> None:
    line = [sys.executable, "-m", "edge_runtime", "demo", "--seconds", "8"]
    environment = os.environ | {"COLUMNS": "200"}
    result = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    for expected in ("camera.front", "collisions", "captured", "p50", "accounts balance", "lost 0"):
        assert expected in result.stdout, expected


def test_every_message_of_a_drive_meets_the_shipped_schemas(tmp_path: Path) -> None:
    validators = {
        kind: jsonschema.Draft202012Validator(json.loads(schema.path(kind).read_text()))
        for kind in ("decision", "status")
    }
    score = tmp_path / "score.json"
    config = Config(
        name="town",
        bundle="shipped:vehicle",
        source=(WorldSource("tcp://127.0.0.1:*", seed=2, duration_s=8.0, score=str(score)),),
        publish=PublishConfig("tcp://127.0.0.1:*"),
        allow_unsigned=True,
        stop_at_end=True,
    )
    seen = {"decision": 0, "status": 0}
    labels = set()
    with running(Runtime(config)) as runtime, zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        socket.connect(runtime.decisions_endpoint)
        message: dict[str, object] = {}
        while message.get("state") != "stopped":
            assert socket.poll(int(1000 * WAIT_S))
            topic, payload = socket.recv_multipart()
            kind = topic.decode().split(".")[0]
            message = json.loads(payload)
            validators[kind].validate(message)
            seen[kind] += 1
            if kind == "decision":
                labels.add(message["label"])
            else:
                assert message["conserved"]
    assert seen["decision"] > 100 and seen["status"] > 4
    assert "keep" in labels
    socket_row, town = message["sources"]  # type: ignore[misc]
    assert socket_row["name"].startswith("zmq ")
    assert town["name"] == "process world" and (town["state"], town["exit_code"]) == ("ended", 0)
    assert json.loads(score.read_text())["collisions"] == 0


@pytest.mark.parametrize("name", ["home", "vehicle"])
def test_shipped_bundles_are_whole_small_and_say_where_they_come_from(name: str) -> None:
    assert name in shipped()
    path = bundle_path(f"shipped:{name}")
    manifest = open_bundle(path, allow_unsigned=True).manifest
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= MAX_BUNDLE_BYTES
    assert manifest.licence and manifest.attribution and manifest.training
    assert {stage.name for stage in manifest.stages} == {"vision", "text", "sensors", "fusion"}
    assert manifest.figures["f1_macro"] > 0.8


def test_home_samples_played_live_get_the_offline_answers(tmp_path: Path) -> None:
    data = DATA / "home-control"
    if not data.is_dir():
        pytest.skip(f"{data} is not there; set EDGE_RUNTIME_DATA to the folder of the data sets")
    line = [sys.executable, "-m", "benchmarks", "home", "--data", str(data), "--limit", "200", "--check"]
    line += ["--out", str(tmp_path)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "live = offline" in result.stdout
