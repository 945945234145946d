"""`init`: what it writes is a configuration that opens, whatever was answered; and nothing else is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import Subscriber
from edge_runtime.bundle import Bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.cli.host import Host
from edge_runtime.cli.init import _Asker, _places, source_rows, written
from edge_runtime.config import CameraSource, FileSource, ImagesSource, StdinSource, VideoSource, ZmqSource, load_config
from edge_runtime.errors import ConfigError
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests.conftest import jpeg, noise, running, wait_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def init(*arguments: object) -> int:
    return run_command(commands, ["init", *map(str, arguments)])


def test_its_configuration_runs(tmp_path: Path, tiny_bundle_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    street = tmp_path / "street"
    street.mkdir()
    for number in range(3):
        (street / f"{number}.jpg").write_bytes(jpeg(noise(250, number)))
    (tmp_path / "rows.csv").write_text("t_s,a,b\n0,1,1\n1,2,2\n")
    file = tmp_path / "hall.toml"
    answers = ("--bundle", tiny_bundle_path, "--allow-unsigned", "--camera", street, "--sensors", tmp_path / "rows.csv")
    where = f"ipc://{tmp_path}/decisions"
    assert init(file, *answers, "--text", "none", "--publish", where, "--yes") == 0, capfd.readouterr()
    config = load_config(file)
    assert [type(row) for row in config.source] == [ImagesSource, FileSource]
    assert (config.name, config.allow_unsigned) == ("hall", True)
    seen: list[DecisionMessage] = []
    with running(Runtime(config)) as runtime, Subscriber(runtime.decisions_endpoint) as subscriber:
        wait_for(lambda: _decided(subscriber, seen), "a decision by the model")
    assert seen[-1].label == "bright"


def _decided(subscriber: Subscriber, seen: list[DecisionMessage]) -> bool:
    message = subscriber.receive(0.1)
    if isinstance(message, DecisionMessage) and message.source == "model":
        seen.append(message)
    return bool(seen)


def test_questions_are_asked_and_proposals_taken(tmp_path: Path) -> None:
    answers = ["shipped:home", "none", "zmq", "stdin", f"ipc://{tmp_path}/decisions"]
    file = tmp_path / "my.toml"
    result = CliRunner().invoke(commands, ["init", str(file)], input="\n".join(answers) + "\n", standalone_mode=False)
    assert result.exception is None
    config = load_config(file)
    assert [type(row) for row in config.source] == [StdinSource, ZmqSource]
    assert "# camera.front (camera, optional) has no source." in file.read_text()
    before = file.read_bytes()
    assert init(file, "--yes") == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--camera", "away.mp4"], "'away.mp4' is nothing that 'camera' (camera) can come from"),
        (["--sensors", "0"], "'0' is nothing that 'sensors' (sensors) can come from"),
        (["--text", "rtsp://x"], "'rtsp://x' is nothing that 'text' (text) can come from"),
        (["--bundle", "shipped:none"], "no such shipped bundle"),
    ],
)
def test_an_answer_that_fits_nothing_is_one_line_and_nothing_is_written(
    arguments: list[str], words: str, tmp_path: Path, tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--bundle" in arguments else ["--bundle", str(tiny_bundle_path)]
    assert init(tmp_path / "a.toml", *own, "--allow-unsigned", "--yes", *arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1
    assert list(tmp_path.glob("*.toml")) == []


def test_a_bundle_of_ones_own_that_is_not_signed_is_not_taken_unasked(
    tmp_path: Path, tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "a.toml", "--bundle", tiny_bundle_path, "--yes") == 2
    assert "not signed" in capsys.readouterr().err


def test_what_is_plugged_in_is_proposed(tmp_path: Path, tiny_bundle: Bundle) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video1").touch()
    given: dict[str, str | None] = {"camera": None, "sensors": None, "text": None}
    host = Host(root=tmp_path, may_use=lambda _: True)
    places = _places(tiny_bundle.manifest.streams, given, _Asker(True), host)
    assert places == {"camera": "/dev/video1", "sensors": "zmq", "text": "zmq"}
    forbidden = Host(root=tmp_path, may_use=lambda _: False)
    assert _places(tiny_bundle.manifest.streams, given, _Asker(True), forbidden)["camera"] == "zmq"


def test_each_kind_of_place_is_its_source(tmp_path: Path, tiny_bundle: Bundle) -> None:
    film = tmp_path / "a film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    for place, row in (
        ("0", CameraSource),
        ("/dev/video9", CameraSource),
        ("rtsp://a/b", CameraSource),
        (film, VideoSource),
    ):
        file = tmp_path / "c.toml"
        places = {"camera": str(place), "sensors": "none", "text": "zmq"}
        file.write_text(written("c", "shipped:home", tiny_bundle, places, "tcp://127.0.0.1:5560"))
        config = load_config(file)
        assert [type(item) for item in config.source] == [row, ZmqSource]
        assert config.stream["text"].stamp == "required"


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_is_answered_makes_a_configuration_or_one_error(tiny_bundle: Bundle, name: str, place: str) -> None:
    try:
        rows = source_rows("camera", "camera", place)
    except ConfigError:
        rows = []
    text = written(name, name, tiny_bundle, {"camera": "none", "text": "zmq"}, place) + "\n".join(rows)
    data = tomllib.loads(text)
    assert (data["name"], data["bundle"], data["sink"][0]["bind"]) == (name, name, place)
