"""`edge-runtime demo home`: a broker, rooms' sensors, a film as the camera, a spoken sentence; and whoever looks at the
decisions: Home Assistant, the page, Prometheus."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    open_to_this_host,
    program,
    running,
    show_accounts,
    show_seen,
    speaking,
    voice_row,
    wait_until,
)
from edge_runtime.cli.demo.film import write_film

NAME = "home"
SENTENCES = {"turn on the kitchen light": "light_on", "turn off the kitchen light": "light_off"}
"""What is said in turn, and what the shipped bundle decides on it in a room where somebody is."""
PAUSE_S = 3.0
"""Between two sentences."""
ANNOUNCED = "homeassistant/device/edge_runtime_home/config"
CONFIG = """\
# Written by edge-runtime demo home. Every key: docs/configuration.md
name = "{name}"
bundle = "shipped:home"
allow_unsigned = true                       # the shipped bundles are not signed

[[sink]]
kind = "zmq"
bind = "{decisions}"

[[sink]]
kind = "mqtt"                               # Home Assistant finds it there by itself
port = {broker}

[dashboard]
bind = "{page}"

[metrics]
bind = "{figures}"

[[source]]
kind = "video"                              # in place of a camera
stream = "camera.front"
path = "room.avi"
loop = true

[[source]]
kind = "mqtt"
port = {broker}

[[source.topic]]
topic = "zigbee2mqtt/rooms"
stream = "sensors"

[source.topic.channels]
{channels}

[[source.topic]]
topic = "home/motion/+"                     # the topic names the channel
stream = "sensors"
channel = "+"
words = {{ ON = 1, OFF = 0 }}

{voice}
"""
WRITTEN = """\
[[source.topic]]
topic = "home/sentence"
stream = "text"
"""
ROOMS = {
    "temperature": [26.1, 26.2, 25.6, 26.4],
    "illuminance": [120, 24, 60, 13],
    "sound": [0.3, 0.12, 0.2, 0.1],
    "air": {"co2": 720.0, "slope": 1.2},
}
"""Of a house where people are."""
PLACES = {
    **{f"temp{room + 1}_c": f"temperature[{room}]" for room in range(4)},
    **{f"light{room + 1}_lux": f"illuminance[{room}]" for room in range(4)},
    **{f"sound{room + 1}_v": f"sound[{room}]" for room in range(4)},
    "co2_ppm": "air.co2",
    "co2_slope": "air.slope",
}
MOTION = {"pir6": "ON", "pir7": "ON"}
REPORT_S = 1.0


class House:
    """Everybody at the broker but the runtime: the sensors, which report once a second, whoever types a sentence, and
    Home Assistant, which says that it is there and hears what is announced, decided and told."""

    def __init__(self, port: int, types: bool) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.announced: dict[str, Any] = {}
        self.availability = ""
        self.decided: Counter[str] = Counter()
        """Of the model, by label."""
        self.reported = 0
        self.said = 0
        self._types = types
        self._stopping = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(ANNOUNCED, 1), (f"edge-runtime/{NAME}/#", 1)])
        self._client.on_message = lambda client, data, message: self._heard(message.topic, bytes(message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.publish("homeassistant/status", "online")
        self._thread = threading.Thread(target=self._live, name="house")
        self._thread.start()

    def close(self) -> None:
        """Nobody is there any more."""
        self._stopping.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _live(self) -> None:
        sentences = list(SENTENCES)
        quiet_since = time.monotonic()
        while not self._stopping.wait(REPORT_S):
            self._client.publish("zigbee2mqtt/rooms", json.dumps(ROOMS))
            for name, state in MOTION.items():
                self._client.publish(f"home/motion/{name}", state)
            self.reported += 1 + len(MOTION)
            if self._types and time.monotonic() - quiet_since >= PAUSE_S:
                quiet_since = time.monotonic()
                self._client.publish("home/sentence", sentences[self.said % len(sentences)])
                self.said += 1

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == ANNOUNCED:
            self.announced = json.loads(payload) if payload else {}
        elif topic.endswith("/availability"):
            self.availability = payload.decode()
        elif topic.endswith("/decision"):
            decision = json.loads(payload)
            if decision["source"] == "model":
                self.decided[decision["label"]] += 1


def show_home(folder: Path, seconds: float, pack: Path | None) -> None:
    """Start it all, look at it from every side for `seconds` at least, end it and tell. Raises UserError for what is
    not there, GateRefused for what was not seen."""
    from rich.console import Console

    console = Console()
    mosquitto = program("mosquitto", "mosquitto")
    need("mqtt", "metrics")
    speaker = speaking(pack)
    broker, decisions, page, figures = free_port(), address(5560), address(5562), address(9464)
    config = _write(folder, broker, decisions, page, figures, speaker, pack)
    with ExitStack() as stack:
        at_broker = stack.enter_context(
            running([mosquitto, "-c", str(folder / "mosquitto.conf")], folder / "mosquitto.log")
        )
        wait_until(lambda: answers(broker), f"mosquitto, {folder / 'mosquitto.log'}", at_broker)
        house = stack.enter_context(closing(House(broker, types=speaker is None)))
        summed = stack.enter_context(listener(folder, decisions))
        runtime = stack.enter_context(running([*COMMAND, "run", str(config)]))
        console.print(
            f"The page: http://{page.removeprefix('tcp://')}/  MQTT: mosquitto_sub -p {broker} -t '#' -v",
            soft_wrap=True,
        )
        if speaker is None:
            console.print(
                "Nobody speaks: the sentences come as text over MQTT. To have them said: "
                "edge-runtime voice fetch voice, then --pack voice",
                soft_wrap=True,
            )
        begun = time.monotonic()
        seen = _look(house, page, figures, runtime)
        while time.monotonic() < begun + seconds and runtime.poll() is None:
            time.sleep(0.1)
        code = end(runtime)
        seen["the runtime ends when it is told to"] = "exit code 0" if code == 0 else ""
        summary = summed()
        gone = _came(lambda: house.availability == "offline", PATIENCE_S)
        seen["Home Assistant is told that it has gone"] = "offline" if gone else ""
    _tell(console, seen, summary, house, spoken=speaker is not None)


def _look(house: House, page: str, figures: str, runtime: subprocess.Popen[bytes]) -> dict[str, str]:
    """What is looked for, to what was seen of it; empty where it was not within PATIENCE_S."""
    wanted = set(SENTENCES.values())
    deadline = time.monotonic() + PATIENCE_S

    def in_time(condition: Callable[[], bool]) -> bool:
        return _came(lambda: condition() or runtime.poll() is not None, deadline - time.monotonic()) and condition()

    seen = {}
    there = in_time(lambda: bool(house.announced) and house.availability == "online")
    seen["Home Assistant finds a device"] = (
        f"{house.announced['device']['name']}, {len(house.announced['components'])} entities, online" if there else ""
    )
    decided = in_time(lambda: wanted <= house.decided.keys())
    seen["... and hears decisions"] = ", ".join(sorted(wanted)) if decided else ""
    turns, picture = _page(page, wanted, deadline) if decided else (set(), b"")
    seen["the page shows them"] = ", ".join(sorted(wanted)) if wanted <= turns else ""
    seen["... and the camera's picture"] = f"JPEG, {len(picture)} bytes" if picture[:2] == b"\xff\xd8" else ""
    counted = _scrape(figures) if decided else {}
    told = {label: counted.get(("edge_runtime_decisions_total", "model", label), 0.0) for label in sorted(wanted)}
    seen["Prometheus counts them"] = (
        ", ".join(f"{label} {count:g}" for label, count in told.items()) if all(told.values()) else ""
    )
    return seen


def _page(page: str, wanted: set[str], deadline: float) -> tuple[set[str], bytes]:
    """Labels and a picture, as the page is told them."""
    import base64

    labels: set[str] = set()
    picture = b""
    where = urlsplit(page)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/events")
        for view in _views(connection.getresponse()):
            labels |= {turn["label"] for turn in view.get("turns", ())}
            picture = next((base64.b64decode(one["jpeg"]) for one in view.get("pictures", ())), picture)
            if (wanted <= labels and picture) or time.monotonic() > deadline:
                break
    except (OSError, http.client.HTTPException):
        pass  # it was not seen
    finally:
        connection.close()
    return labels, picture


def _views(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def _scrape(figures: str) -> dict[tuple[str, ...], float]:
    """Name, `source` and `label` to the value of each sample; empty where the page does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    where = urlsplit(figures)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return {
        (sample.name, sample.labels.get("source", ""), sample.labels.get("label", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _came(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _tell(console: Any, seen: dict[str, str], summary: dict[str, Any], house: House, spoken: bool) -> None:
    heard = summary["status"]["streams"]["text"]["captured"]
    how = "spoken, and heard" if spoken else "over MQTT"
    rows = {
        "the rooms report": f"{house.reported} readings over MQTT",
        "sentences": f"{heard} {how}" if heard else "",
        **seen,
        "every message is accounted for": BALANCED if summary["status"]["conserved"] else "",
    }
    show_accounts(console, summary)
    show_seen(console, "home", rows)


def _write(
    folder: Path, broker: int, decisions: str, page: str, figures: str, speaker: str | None, pack: Path | None
) -> Path:
    """Film, speech, the broker's configuration and the runtime's; the last one's path."""
    write_film(folder / "room.avi")
    (folder / "mosquitto.conf").write_text(open_to_this_host(broker), encoding="utf-8")
    voice = voice_row(folder, speaker, pack, "shipped:home", list(SENTENCES), PAUSE_S) or WRITTEN
    channels = "\n".join(f'{name} = "{place}"' for name, place in PLACES.items())
    config = folder / "home.toml"
    config.write_text(
        CONFIG.format(
            name=NAME,
            decisions=decisions,
            broker=broker,
            page=page,
            figures=figures,
            channels=channels,
            voice=voice,
        ),
        encoding="utf-8",
    )
    return config
