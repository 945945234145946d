"""How long decisions are silent while a service is reloaded: less than one heartbeat, however slowly engines open."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from pathlib import Path

import pytest
import zmq

from edge_runtime import Subscriber
from edge_runtime.wire import DecisionMessage
from tests import tiny
from tests.cli.test_end import SLOW_ENGINES, Service, end, started
from tests.conftest import WAIT_S, jpeg, noise

HEARTBEAT_MS = 1000.0
OPENING_S = 2.5


@pytest.mark.timeout(120)
def test_a_reload_with_engines_that_open_slowly_is_silent_for_less_than_a_heartbeat(tmp_path: Path) -> None:
    policy = tiny.DecisionPolicy("stop", heartbeat_ms=HEARTBEAT_MS)
    bundle = tiny.write_bundle(tmp_path / "b", policy=policy)
    sabotage = SLOW_ENGINES.format(when="hasattr(StageGraph, 'second')").replace("600", str(OPENING_S)) + (
        "\nfirst = StageGraph.open\n"
        "def mark(graph, on_cpu=False):\n    first(graph, on_cpu)\n    StageGraph.second = True\n"
        "StageGraph.open = mark\n"
    )
    service = Service(tmp_path, bundle, sabotage=sabotage)
    stop = threading.Event()

    def film() -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.setsockopt(zmq.LINGER, 0)
            push.connect(f"ipc://{tmp_path}/in")
            number = 0
            while not stop.wait(0.033):
                header = {"schema": 1, "stream": "camera", "captured_ns": time.monotonic_ns()}
                push.send_multipart([json.dumps(header).encode(), jpeg(noise(200, number))])
                number += 1

    camera = threading.Thread(target=film)
    with started(service) as process:
        service.ready()
        camera.start()
        published: list[int] = []
        with Subscriber(f"ipc://{tmp_path}/out") as subscriber:
            for reloads in (1, 2, 3):
                process.send_signal(signal.SIGHUP)
                while subscriber.status is None or _succeeded(subscriber) < reloads:
                    message = subscriber.receive(WAIT_S)
                    if isinstance(message, DecisionMessage):
                        published.append(message.published_ns)
            lost = subscriber.lost
        stop.set()
        camera.join()
        assert end(process)[0] == 0
    gaps_ms = [(after - before) / 1e6 for before, after in itertools.pairwise(published)]
    assert lost == 0
    assert (published[-1] - published[0]) / 1e9 > 3 * OPENING_S, "engines opened slowly"
    assert max(gaps_ms) < HEARTBEAT_MS


def _succeeded(subscriber: Subscriber) -> int:
    assert subscriber.status is not None and subscriber.status.reload is not None
    return subscriber.status.reload.succeeded
