"""`demo home` and `demo vehicle`, whole: the commands of the documentation, with a real broker, a real gpsd, a page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from edge_runtime.cli.demo import around, demo
from edge_runtime.cli.demo.film import write_film
from edge_runtime.config import ZmqSink, load_config
from edge_runtime.errors import GateRefused, UserError
from tests.voice.speakers import PACK, available

SPOKEN = PACK.is_dir() and bool(available()) and all(map(find_spec, around.PACKAGES["voice"]))


def shown(what: str, kept: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Spoken to, where that can be; nothing of it must be left running."""
    line = [sys.executable, "-m", "edge_runtime", "demo", what, "--seconds", "5", "--keep", str(kept), *more]
    line += ["--pack", str(PACK)] if SPOKEN else []
    environment = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        said, complained = process.communicate(timeout=500)
    assert process.returncode == 0, said + complained
    assert not in_session(process.pid), "everything has ended with it"
    return subprocess.CompletedProcess(line, process.returncode, said, complained)


def in_session(session: int) -> list[str]:
    """Command lines of the processes that a session is left with."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def row(told: str, name: str) -> str:
    """What the last table says of `name`."""
    last = re.split(r"^the (?:home|vehicle) *$", told, flags=re.M)[-1]
    lines = [line for line in last.splitlines() if line.startswith(f"│ {name} ")]
    assert len(lines) == 1, told
    return lines[0].split("│")[2].strip()


@pytest.mark.skipif(
    shutil.which("mosquitto", path=around.PATH) is None, reason="mosquitto is not installed (apt-get install mosquitto)"
)
def test_a_home_is_heard_decided_on_and_seen_from_every_side(tmp_path: Path) -> None:
    for extra in ("mqtt", "metrics"):
        if any(find_spec(name) is None for name in around.PACKAGES[extra]):
            pytest.skip(f"the packages of the extra {extra} are not installed")
    told = shown("home", tmp_path / "home").stdout
    assert row(told, "Home Assistant finds a device").startswith("home, ")
    assert "online" in row(told, "Home Assistant finds a device")
    for name in ("... and hears decisions", "the page shows them"):
        assert row(told, name) == "light_off, light_on"
    assert row(told, "... and the camera's picture").startswith("JPEG")
    assert row(told, "Prometheus counts them").startswith("light_off ")
    assert row(told, "Home Assistant is told that it has gone") == "offline"
    assert ("spoken, and heard" if SPOKEN else "over MQTT") in row(told, "sentences")
    assert "accounts balance" in told and "lost 0" in told
    rows = load_config(tmp_path / "home" / "home.toml").source
    kinds = [one.__struct_config__.tag for one in rows]
    assert kinds == (["video", "mqtt", "voice"] if SPOKEN else ["video", "mqtt"])


@pytest.mark.skipif(
    shutil.which("gpsd", path=around.PATH) is None, reason="gpsd is not installed (apt-get install gpsd)"
)
def test_a_vehicle_drives_by_its_buses_for_who_has_a_key_and_is_decided_again(tmp_path: Path) -> None:
    for extra in ("can", "curve"):
        if any(find_spec(name) is None for name in around.PACKAGES[extra]):
            pytest.skip(f"the packages of the extra {extra} are not installed")
    told = shown("vehicle", tmp_path / "vehicle", "--seconds", "8").stdout
    for name, how in (
        ("motion and ranges", "frames of a CAN bus"),
        ("position", "reports of gpsd"),
        ("pictures", "over ZeroMQ, with a key"),
        ("sentences", "spoken, and heard" if SPOKEN else "over ZeroMQ, with a key"),
    ):
        count, _, words = row(told, name).partition(" ")
        assert int(count) > 0 and words == how
    received, lost = row(told, "a subscriber with a key").split(" decisions, ")
    assert int(received) > 50 and lost == "0 lost"
    assert row(told, "a subscriber without one") == "hears nothing"
    assert float(row(told, "the car").partition(" m")[0]) > 5.0
    assert ", 0 changed" in row(told, "the recording, decided again")
    assert "accounts balance" in told
    sinks = load_config(tmp_path / "vehicle" / "vehicle.toml").sinks
    assert [sink.keys for sink in sinks if isinstance(sink, ZmqSink)] == [str(tmp_path / "vehicle" / "keys")]


def test_what_is_missing_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(around, "PATH", str(tmp_path))
    monkeypatch.setitem(around.PACKAGES, "can", ("no_such_package",))
    for what, line in (("home", "mosquitto is not installed"), ("vehicle", "gpsd is not installed")):
        with pytest.raises(UserError, match=line) as caught:
            demo.main([what], standalone_mode=False)
        assert "apt-get install" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"pip install 'edge-runtime\[can\]'"):
        around.need("can", "mqtt")
    with pytest.raises(UserError, match="voice fetch"):
        around.speaking(tmp_path)


@pytest.mark.parametrize("arguments", [["--pack", "x"], ["town", "--keep", "x"], ["home", "--unplug", "camera"]])
def test_options_of_another_application_are_refused(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        demo.main(arguments, standalone_mode=False)


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a new folder"), around.place(tmp_path):
        pass
    with around.place(None) as folder:
        (folder / "x").touch()
    assert not folder.exists()


def test_what_was_not_seen_is_named() -> None:
    from rich.console import Console

    with pytest.raises(GateRefused, match="demo home: not seen: the page"):
        around.show_seen(Console(quiet=True), "home", {"the broker": "yes", "the page": ""})


def test_no_two_pictures_of_the_film_are_the_same(tmp_path: Path) -> None:
    import cv2

    write_film(tmp_path / "room.avi")
    film = cv2.VideoCapture(str(tmp_path / "room.avi"))
    pictures = set()
    while (read := film.read())[0]:
        pictures.add(read[1].tobytes())
    assert len(pictures) == 50


@pytest.mark.skipif(not any(one.program != "piper" for one in available()), reason="nobody speaks (espeak-ng, flite)")
def test_speech_is_at_the_recogniser_s_rate_with_pauses(tmp_path: Path) -> None:
    from edge_runtime.kinds.audio import SAMPLE_RATE
    from edge_runtime.wav import read_wav

    speaker = shutil.which("espeak-ng") or shutil.which("flite")
    assert speaker is not None
    around.write_speech(speaker, ["one", "two"], 2.0, tmp_path / "said.wav")
    sound = read_wav(tmp_path / "said.wav")
    loud = abs(sound.astype(float)) > 500
    assert not loud[:SAMPLE_RATE].any() and not loud[-2 * SAMPLE_RATE + 100 :].any() and loud.any()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["said.wav"]
