"""`edge-runtime demo vehicle`: the car of the built-in town with its senses where a vehicle has them: motion and ranges
on a CAN bus, position at a real gpsd, directions in the driver's ear; decisions for holders of keys, and recorded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge_runtime.cli.demo.around import (
    BALANCED,
    COMMAND,
    PATIENCE_S,
    address,
    answers,
    end,
    free_port,
    listener,
    need,
    program,
    running,
    show_accounts,
    show_seen,
    speaking,
    voice_row,
    wait_until,
)
from edge_runtime.cli.demo.town import score_table

SENTENCE = "turn left at the next junction"
PAUSE_S = 5.0
BUS = "town"
CONFIG = """\
# Written by edge-runtime demo vehicle. Every key: docs/configuration.md
name = "vehicle"
bundle = "shipped:vehicle"
allow_unsigned = true                       # the shipped bundles are not signed

[[sink]]
kind = "zmq"
bind = "{decisions}"
keys = "keys"                               # only who has a key from there gets in

[[sink]]
kind = "recording"
path = "vehicle.mcap"

[[source]]
kind = "zmq"                                # the camera
bind = "{inputs}"
keys = "keys"

[[source]]
kind = "can"
stream = "sensors"
path = "town.dbc"
interface = "virtual"                       # a vehicle has "socketcan", and bus = "can0"
bus = "{bus}"

[source.signals]
{signals}

[[source]]
kind = "gpsd"
stream = "position"
port = {gpsd}
origin = {origin}
channels = {{ x_m = "east", y_m = "north", heading_rad = "yaw" }}

{voice}
"""


def show_vehicle(folder: Path, seconds: float, seed: int, pack: Path | None) -> None:
    """Drive for `seconds`, decide the recording again, and tell. Raises UserError for what is not there, GateRefused
    for what was not seen."""
    from rich.console import Console

    console = Console()
    gpsd = program("gpsd", "gpsd")
    need("can", "curve")
    speaker = speaking(pack)
    decisions, inputs, receiver = address(5560), address(5561), free_port()
    config, car, screen = _write(folder, decisions, inputs, receiver, speaker, pack)
    sentences = free_port(socket.SOCK_DGRAM)
    score_file, frames = folder / "score.json", folder / "can"
    world = [sys.executable, "-m", "edge_runtime.world", "drive", "--inputs", inputs, "--decisions", decisions]
    world += ["--keys", str(car), "--can", str(frames), "--gnss", "127.0.0.1", str(sentences)]
    world += ["--seed", str(seed), "--duration", str(seconds), "--score", str(score_file)]
    if speaker is not None:
        world += ["--unplug", "text", "--unplug-at", "0"]
    with ExitStack() as stack:
        log = folder / "gpsd.log"
        command = [gpsd, "-N", "-n", "-S", str(receiver), f"udp://127.0.0.1:{sentences}"]
        following = stack.enter_context(running(command, log))
        wait_until(lambda: answers(receiver), f"gpsd, {log}", following)
        summed = stack.enter_context(listener(folder, decisions, screen))
        runtime_command = [sys.executable, "-m", "edge_runtime.cli.demo.adapter", str(config), str(frames), BUS]
        runtime = stack.enter_context(running(runtime_command))
        wait_until(frames.exists, "the runtime", runtime)
        console.print(
            f"The town drive, seed {seed}, {seconds:g} s: "
            + (f'"{SENTENCE}", says {Path(speaker).name}' if speaker else "nobody speaks, directions come as text")
            + ("" if speaker else "; to have them said: edge-runtime voice fetch voice, then --pack voice"),
            soft_wrap=True,
        )
        driving = stack.enter_context(running(world))
        overheard = folder / "overheard.json"
        stranger = [*COMMAND, "listen", "--connect", decisions, "--seconds", str(seconds), "--summary", str(overheard)]
        listening = stack.enter_context(running(stranger, folder / "stranger.log"))
        _wait(driving, runtime, seconds + PATIENCE_S)
        code = end(runtime)
        summary = summed()
        listening.wait(PATIENCE_S)
    replayed = subprocess.run(
        [*COMMAND, "replay", str(folder / "vehicle.mcap"), "--allow-unsigned", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    score = json.loads(score_file.read_text(encoding="utf-8")) if score_file.exists() else {}
    console.print(score_table(score))
    show_accounts(console, summary)
    strangers = json.loads(overheard.read_text(encoding="utf-8"))["received"]
    _tell(console, summary, score, code, replayed, speaker is not None, strangers)


def _wait(driving: subprocess.Popen[bytes], runtime: subprocess.Popen[bytes], seconds: float) -> None:
    """Until the drive ends, the runtime does, or it takes too long."""
    deadline = time.monotonic() + seconds
    while driving.poll() is None and runtime.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)


def _tell(
    console: Any,
    summary: dict[str, Any],
    score: dict[str, Any],
    code: int,
    replayed: subprocess.CompletedProcess[str],
    spoken: bool,
    strangers: int,
) -> None:
    streams, received = summary["status"]["streams"], summary["received"]

    def came(stream: str, how: str) -> str:
        """Empty where nothing did."""
        return f"{streams[stream]['captured']} {how}" if streams[stream]["captured"] else ""

    ways = ", ".join(f"{count} {way}" for way, count in score.get("ways", {}).items()) or "no junction yet"
    said = replayed.stderr.strip().splitlines()
    rows = {
        "motion and ranges": came("sensors", "frames of a CAN bus"),
        "position": came("position", "reports of gpsd"),
        "pictures": came("camera.front", "over ZeroMQ, with a key"),
        "sentences": came("text", "spoken, and heard" if spoken else "over ZeroMQ, with a key"),
        "a subscriber with a key": f"{received} decisions, {summary['lost']} lost" if received else "",
        "a subscriber without one": "hears nothing" if not strangers else "",
        "the car": f"{score['distance_m']:.0f} m; junctions: {ways}" if score.get("distance_m") else "",
        "the recording, decided again": said[-1] if replayed.returncode == 0 and said else "",
        "the runtime ends when it is told to": "exit code 0" if code == 0 else "",
        "every message is accounted for": BALANCED if summary["status"]["conserved"] else "",
    }
    show_seen(console, "vehicle", rows)


def _write(
    folder: Path, decisions: str, inputs: str, receiver: int, speaker: str | None, pack: Path | None
) -> tuple[Path, Path, Path]:
    """The configuration, and the files of keys of the car and of a screen in it."""
    from edge_runtime import keyring
    from edge_runtime.world.buses import DBC, ORIGIN, SIGNALS

    keys = folder / "keys"
    keyring.make_server(keys)
    car = keyring.make_client(keys, "car", ("camera.front", "text"), True, folder / "car.key.toml")
    screen = keyring.make_client(keys, "screen", (), True, folder / "screen.key.toml")
    (folder / "town.dbc").write_bytes(DBC.read_bytes())
    voice = voice_row(folder, speaker, pack, "shipped:vehicle", [SENTENCE], PAUSE_S)
    signals = "\n".join(f'{channel} = "{signal}"' for channel, signal in SIGNALS.items())
    config = folder / "vehicle.toml"
    config.write_text(
        CONFIG.format(
            decisions=decisions,
            inputs=inputs,
            bus=BUS,
            signals=signals,
            gpsd=receiver,
            origin=list(ORIGIN),
            voice=voice,
        ),
        encoding="utf-8",
    )
    return config, car, screen
