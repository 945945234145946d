"""Whoever looks at a runtime from outside, as one process that takes no processor time that others want.

python -m benchmarks.watchers WATCH (JSON, see `Watch`): a browser's place at the page, a Prometheus that scrapes every
5 s, a viewer of Foxglove's that wants everything, a client of the broker that hears all topics. Ends with SIGTERM,
and prints what each has seen as JSON.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

SCRAPE_S = 5.0
AGAIN_S = 0.1
"""Until somebody who is not there yet is tried again."""
NICENESS = 19
PROTOCOL = "foxglove.sdk.v1"


class Watch(Struct, frozen=True):
    """Ports of this host; what has none is not watched."""

    page: int | None = None
    figures: int | None = None
    foxglove: int | None = None
    broker: int | None = None


class Watchers:
    """A thread for each; `seen` counts views, scrapes, messages."""

    def __init__(self, watch: Watch) -> None:
        self.seen: Counter[str] = Counter()
        self._ended = threading.Event()
        for port, look in (
            (watch.page, self._page),
            (watch.figures, self._scrape),
            (watch.foxglove, self._foxglove),
            (watch.broker, self._broker),
        ):
            if port is not None:
                threading.Thread(target=self._again, args=(look, port), daemon=True).start()

    def end(self) -> None:
        """From a signal handler."""
        self._ended.set()

    def wait(self) -> None:
        """Until the end."""
        self._ended.wait()

    def _again(self, look: Callable[[int], None], port: int) -> None:
        while not self._ended.wait(AGAIN_S):
            try:
                look(port)
            except Exception:  # it is not there yet, or no more: that shows in what was seen
                continue

    def _page(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/events")
        response = connection.getresponse()
        while line := response.readline():
            self.seen["views"] += line.startswith(b"data: ")

    def _scrape(self, port: int) -> None:
        while not self._ended.wait(SCRAPE_S):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            self.seen["scrapes"] += b"edge_runtime_decisions_total" in connection.getresponse().read()
            connection.close()

    def _foxglove(self, port: int) -> None:
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{port}", subprotocols=[PROTOCOL], max_size=None) as talk:  # type: ignore[list-item]
            for data in talk:
                if isinstance(data, bytes):
                    self.seen["foxglove"] += data[:1] == b"\x01"
                    continue
                told: dict[str, Any] = json.loads(data)
                if told["op"] == "advertise":
                    numbers = [channel["id"] for channel in told["channels"]]
                    wanted = [{"id": number, "channelId": number} for number in numbers]
                    talk.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))

    def _broker(self, port: int) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        def heard(client: Any, data: Any, message: Any) -> None:
            self.seen["mqtt"] += 1

        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_connect = lambda client, *_: client.subscribe("#", 1)
        client.on_message = heard
        client.connect("127.0.0.1", port)
        client.loop_forever()


def main(watch: Watch) -> None:
    """Watch until SIGTERM."""
    os.nice(NICENESS)
    watchers = Watchers(watch)
    signal.signal(signal.SIGTERM, lambda *_: watchers.end())
    watchers.wait()
    print(json.dumps(dict(watchers.seen)), flush=True)
    os._exit(0)  # threads wait in sockets


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Watch))
