"""The page of a running service: a sink that is shown what the loop takes, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime import config, endpoints
from edge_runtime.config import Config
from edge_runtime.dashboard import feed as feeds
from edge_runtime.errors import ConfigError
from edge_runtime.publish.dashboard_sink import DashboardSink
from edge_runtime.runtime import Runtime
from tests.conftest import noise, running, tiny_config, wait_for
from tests.dashboard.looker import Looker, ask
from tests.test_runtime import Vehicle

ROW = config.DashboardSink("tcp://127.0.0.1:*")


def sink_of(runtime: Runtime) -> DashboardSink:
    return next(outlet.sink for outlet in runtime._outlets if isinstance(outlet.sink, DashboardSink))


@pytest.fixture
def looked_at(
    tiny_bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[Runtime, Vehicle, DashboardSink]]:
    caplog.set_level("INFO", "edge_runtime")
    with running(Runtime(msgspec.structs.replace(tiny_config(tiny_bundle_path), dashboard=ROW))) as runtime:
        vehicle = Vehicle(runtime)
        try:
            yield runtime, vehicle, sink_of(runtime)
        finally:
            vehicle.close()


def test_a_running_service_shows_itself_and_does_nothing_for_the_page_unless_somebody_looks(
    looked_at: tuple[Runtime, Vehicle, DashboardSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, vehicle, sink = looked_at
    made: list[str] = []
    for name in ("preview", "_encode"):
        real = getattr(feeds, name)
        monkeypatch.setattr(feeds, name, lambda item, name=name, real=real: (made.append(name), real(item))[1])
    for number in range(20):
        vehicle.answer(240, f"f{number}")
    assert made == [] and not sink._feed._frames and not sink.wants_whole
    looker = Looker(sink.endpoint)
    kind, hello = looker.next()
    assert kind == "hello" and hello["shows"] == ["pictures", "log"]
    assert any("decisions at tcp://" in line["text"] for line in hello["lines"])
    wait_for(lambda: sink.wants_whole, "the page to notice")
    vehicle.answer(20, "dark")
    (picture,) = looker.find("pictures")
    assert picture["camera"] == "camera" and set(made) == {"preview", "_encode"}
    told = looker.find("status")
    assert told["streams"]["camera"]["max_age_ms"] == 300 and told["sinks"]["2 dashboard"]["state"] == "open"
    looker.close()
    wait_for(lambda: not sink.wants_whole, "the page to notice that nobody looks")


def test_raw_pictures_are_kept_whole_only_while_somebody_looks(tiny_bundle_path: Path, tmp_path: Path) -> None:
    size = (96, 128)
    (tmp_path / "shown").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "shown" / f"{number}.png"), noise(100, number, size))
    source = config.ImagesSource("camera", str(tmp_path / "shown"), rate_hz=50, loop=True)
    base = tiny_config(tiny_bundle_path, source)
    with running(Runtime(msgspec.structs.replace(base, dashboard=ROW))) as runtime:
        sink, pipeline = sink_of(runtime), runtime._session.pipeline
        wait_for(lambda: pipeline.newest_ns("camera") is not None, "a picture")
        looker = Looker(sink.endpoint)
        (first,) = looker.find("pictures")
        wait_for(
            lambda: any(np.shape(frame.picture)[:2] == size for frame in sink._feed._frames.values()), "a whole one"
        )
        looker.close()
        assert first["camera"] == "camera"
        wait_for(lambda: not runtime._session.intake._whole(), "nobody to want it")


def test_a_page_that_is_held_is_tried_again_and_decisions_go_on(tiny_bundle_path: Path) -> None:
    held = DashboardSink(ROW)
    bind = held.endpoint.replace("http", "tcp").rstrip("/")
    row = config.DashboardSink(bind)
    with running(Runtime(msgspec.structs.replace(tiny_config(tiny_bundle_path), dashboard=row))) as runtime:
        vehicle = Vehicle(runtime)
        vehicle.answer(240, "f")
        outlet = next(one for one in runtime._outlets if one.name == "2 dashboard")
        assert outlet.health().state == "retrying"
        held.close()
        wait_for(lambda: outlet.health().state == "open", "the address")
        assert ask(sink_of(runtime).endpoint)[0] == 200
        vehicle.close()


HEAD = 'name = "car"\nbundle = "shipped:vehicle"\n[[source]]\nkind = "zmq"\n'


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('bind = "ipc:///tmp/d"', "expected tcp://ADDRESS:PORT"),
        ('bind = "127.0.0.1:5562"', "expected tcp://ADDRESS:PORT"),
        ('bind = "tcp://0.0.0.0:5562"', "open to the network; .* or give token_file"),
        ('bind = "tcp://0.0.0.0:5562"\ncertificate = "c.pem"', "or give token_file"),
        ('bind = "tcp://0.0.0.0:5562"\ntoken_file = "t"', "without encryption"),
        ('key = "k.pem"', "key is given without certificate"),
        ("port = 3", "valid keys are bind, certificate, key, token_file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "car.toml"
    path.write_text(f"{HEAD}[dashboard]\n{table}\n")
    with pytest.raises(ConfigError, match=message):
        Config.load(path)


def test_the_table_is_short_for_a_sink_of_its_kind_and_its_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    settings = 'bind = "tcp://0.0.0.0:5562"\ntoken_file = "t"\ncertificate = "c"\n'
    path.write_text(f"{HEAD}[dashboard]\n{settings}")
    short = Config.load(path).sinks
    path.write_text(f'{HEAD}[[sink]]\nkind = "dashboard"\n{settings}')
    assert set(short) == set(Config.load(path).sinks)
    row = next(row for row in short if isinstance(row, config.DashboardSink))
    assert (row.token_file, row.certificate) == (str(tmp_path / "t"), str(tmp_path / "c"))
    phrase = f'insecure_public_bind = "{endpoints.INSECURE_PHRASE}"\n'
    path.write_text(f'{phrase}{HEAD}[dashboard]\nbind = "tcp://0.0.0.0:5562"\ntoken_file = "t"\n')
    Config.load(path)
