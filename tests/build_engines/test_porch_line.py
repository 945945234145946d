"""A home's door, whole: moments are made, a model learns them and passes its gate, and what one runtime's detector sees
another decides by, with a sentence and readings; then the recording, decided again.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from build_engines.data import porch
from build_engines.data.porch import make
from build_engines.data.porch_scene import DOOR
from build_engines.gate import judge
from edge_runtime import Subscriber
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.config import Config, DetectionsSource, RecordingSink, ZmqSink, ZmqSource
from edge_runtime.recording.reader import Recording
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests import tiny_detector
from tests.build_engines.calling import call
from tests.conftest import WAIT_S, running
from tests.test_detections import camera, replays

RECIPE = Path(porch.__file__).parents[1] / "recipes" / "porch.toml"
AT_HOME = {"hall_motion": 1.0, "sound_v": 0.6, "co2_ppm": 850.0, "porch_lux": 2000.0}
AWAY = {"hall_motion": 0.0, "sound_v": 0.04, "co2_ppm": 450.0, "porch_lux": 2000.0}
OPEN = "open the door"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The recipe on fewer moments and without folds."""
    folder = tmp_path_factory.mktemp("porch")
    make(folder / "data", "train", 500, 2)
    make(folder / "data", "val", 90, 3)
    text = RECIPE.read_text() + "[choose]\nfolds = 0\n"
    for old, new in (("epochs = 16", "epochs = 10"), ("= 0.85", "= 0.7"), ("[calibrate]", "[calibrate]\nsamples = 64")):
        assert old in text
        text = text.replace(old, new)
    (folder / "porch.toml").write_text(text)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(judge, "RESAMPLES", 60)
    assert call(monkeypatch, "run", "porch.toml", "--data", "data", "--out", "out") == 0
    monkeypatch.undo()
    return open_bundle(folder / "out/porch", allow_unsigned=True)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes red squares for people."""
    folder = tmp_path_factory.mktemp("bundle") / "eyes"
    head = open_bundle(tiny_detector.write_bundle(folder), allow_unsigned=True).manifest.head
    return tiny_detector.write_bundle(folder, head=replace(head, labels=("person", "dog")))


def test_two_streams_of_readings_and_a_sentence_pass_the_gate(built: Bundle) -> None:
    stages = [stage.name for stage in built.manifest.stages]
    assert stages == ["text", "sensors_objects", "sensors_room", "fusion"]
    assert built.manifest.figures["f1_macro"] > 0.8


def test_somebody_is_let_in_who_is_seen_asked_for_and_welcome(built: Bundle, eyes: Path, tmp_path: Path) -> None:
    decisions = ZmqSink("tcp://127.0.0.1:*")
    inputs = ZmqSource("tcp://127.0.0.1:*", rate_limit=0)
    looking = Config("eyes", str(eyes), (inputs,), (decisions,), allow_unsigned=True, zones=DOOR)
    visitor = tiny_detector.picture((tiny_detector.RED, 40, 26))  # its feet are on the step before the door
    with ExitStack() as stack:
        first = stack.enter_context(running(Runtime(looking)))
        source = DetectionsSource("objects", first.decisions_endpoint, "eyes")
        sinks = (decisions, RecordingSink(str(tmp_path / "porch.mcap")))
        deciding = Config("porch", str(built.path), (inputs, source), sinks, allow_unsigned=True, zones=DOOR)
        second = stack.enter_context(running(Runtime(deciding)))
        says = stack.enter_context(Subscriber(second.decisions_endpoint, timeout_s=WAIT_S))
        look = stack.enter_context(camera(first))
        tell = stack.enter_context(stack.enter_context(zmq.Context()).socket(zmq.PUSH))
        tell.connect(second.input_endpoints[0])

        def until(wanted: str, shown: object, room: dict[str, float], text: str = "") -> DecisionMessage:
            """Shows and says it again and again until that is decided."""
            deadline, heard = time.monotonic() + WAIT_S, list[str]()
            while time.monotonic() < deadline:
                if shown is not None:
                    look(shown)  # type: ignore[arg-type]
                parts = [{"stream": "room", "values": room}] + ([{"stream": "text", "text": text}] if text else [])
                for part in parts:
                    tell.send(json.dumps({"schema": 1, **part}).encode())
                message = says.receive(0.1)
                if isinstance(message, DecisionMessage):
                    heard.append(message.label)
                    if message.label == wanted:
                        return message
            raise AssertionError(f"{wanted} was not said, but {set(heard)}")

        assert until("announce", visitor, AT_HOME).inputs["objects"].present
        assert until("unlock", visitor, AT_HOME, OPEN).source == "model"
        assert until("say_somebody", visitor, AT_HOME, "is anybody at the door").source == "model"
        nobody = tiny_detector.picture()
        assert until("say_nobody", nobody, AT_HOME, "is anybody at the door").source == "model"
        assert until("hold", nobody, AT_HOME, OPEN).inputs["objects"].present
        assert until("notify", visitor, AWAY).source == "model"
        # Nobody looks any more: what was seen opens nothing.
        unseen = until("hold", None, AT_HOME, OPEN)
        while unseen.inputs["objects"].present:
            unseen = until("hold", None, AT_HOME, OPEN)
        assert unseen.label == "hold"
    assert {one.label for one in replays(tmp_path / "porch.mcap", built.path)} >= {"announce", "unlock", "say_nobody"}
    recorded = [event for event in Recording(tmp_path / "porch.mcap").events() if isinstance(event, DecisionMessage)]
    for one in recorded:
        assert one.label != "unlock" or all(one.inputs[name].present for name in ("objects", "room", "text"))
