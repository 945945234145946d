"""The real process, told to end in every state, and how it ends by itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_runtime import Subscriber
from tests.conftest import WAIT_S

END_S = 2.0
"""What is promised, from the signal to the end of the process."""
LOADED_S = 6.0
"""What is asserted: a busy machine may have to schedule the process that late."""

CONFIG = """
name = "end"
bundle = "{bundle}"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "zmq"
bind = "ipc://{folder}/in"
"""
RECORDING = """
[[sink]]
kind = "recording"
path = "{folder}/r.mcap"
"""
CAMERA = """
[[source]]
kind = "camera"
stream = "camera"
device = "{device}"
"""
MAIN = "from edge_runtime.cli import main; main()"
SLOW_ENGINES = """
import time
from edge_runtime.infer.stages import StageGraph
opened = StageGraph.open
def slow(graph, on_cpu=False):
    if {when}:
        print("opening", flush=True)
        time.sleep(600)  # as a library that builds: no bytecode of this thread runs
    opened(graph, on_cpu)
StageGraph.open = slow
"""
SLOW_FSYNC = """
import os, time
os.fsync = lambda handle: (print("syncing", flush=True), time.sleep(600))
"""
FAILING_ENGINES = """
import os
from edge_runtime.errors import EngineError
from edge_runtime.infer.stages import StageGraph
class Lost(EngineError):
    device_lost = True
run = StageGraph.run
def fails(graph, aligned):
    if os.path.exists({marker!r}):
        raise Lost("the GPU is gone")
    return run(graph, aligned)
StageGraph.run = fails
"""


@dataclass
class Service:
    folder: Path
    bundle: Path
    more: str = ""
    sabotage: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    stderr: int = subprocess.DEVNULL

    def start(self) -> subprocess.Popen[str]:
        config = self.folder / "end.toml"
        config.write_text(CONFIG.format(bundle=self.bundle, folder=self.folder) + self.more)
        code = f"{self.sabotage}\nimport sys\nsys.argv = ['edge-runtime', 'run', {str(config)!r}]\n{MAIN}"
        environment = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"} | self.environment
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )

    def ready(self) -> None:
        """Wait for a decision."""
        with Subscriber(f"ipc://{self.folder}/out") as subscriber:
            assert subscriber.receive(WAIT_S) is not None


@contextlib.contextmanager
def started(service: Service) -> Iterator[subprocess.Popen[str]]:
    process = service.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def end(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Exit code, and seconds from the signal on."""
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(WAIT_S)
    return code, time.monotonic() - start


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == word + "\n"


@pytest.fixture
def service(tmp_path: Path, tiny_bundle_path: Path) -> Service:
    return Service(tmp_path, tiny_bundle_path)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_in_the_first_moments_of_its_life(service: Service, after_s: float) -> None:
    with started(service) as process:
        time.sleep(after_s)
        code, seconds = end(process)
    # Before Python has come so far as to hear of it, the signal itself ends it: systemd takes that for a clean end too.
    assert code in (0, -signal.SIGTERM)
    assert seconds < LOADED_S


def test_while_it_decides(service: Service) -> None:
    with started(service) as process:
        service.ready()
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S
    assert not (service.folder / "out").exists() and not (service.folder / "in").exists()


def test_while_engines_open_or_build_at_the_start(service: Service) -> None:
    service.sabotage = SLOW_ENGINES.format(when="True")
    with started(service) as process:
        says(process, "opening")
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S


def test_while_engines_that_failed_are_opened_again(service: Service) -> None:
    service.sabotage = SLOW_ENGINES.format(when="graph._backend is None and hasattr(StageGraph, 'failed')") + (
        "from edge_runtime.errors import EngineError\n"
        "def fails(graph, aligned):\n    StageGraph.failed = True\n    raise EngineError('broken')\n"
        "StageGraph.run = fails\n"
    )
    service.more = CAMERA.format(device=_moving_picture(service.folder))
    with started(service) as process:
        says(process, "opening")
        with Subscriber(f"ipc://{service.folder}/out") as subscriber:
            assert next(iter(subscriber)).source == "safe"
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S


def test_while_a_camera_hangs_in_its_driver(service: Service) -> None:
    os.mkfifo(service.folder / "camera")
    service.more = CAMERA.format(device=service.folder / "camera")
    with started(service) as process:
        service.ready()
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S


def test_while_a_camera_is_not_there_yet(service: Service) -> None:
    service.more = CAMERA.format(device="/dev/video-not-there")
    with started(service) as process:
        service.ready()
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S


def test_while_a_disk_takes_its_time(service: Service) -> None:
    service.sabotage = SLOW_FSYNC
    service.more = RECORDING.format(folder=service.folder)
    with started(service) as process:
        says(process, "syncing")
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S
    assert (service.folder / "r.mcap").stat().st_size > 0


def test_while_nobody_reads_standard_error(service: Service) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    service.stderr = writing
    with started(service) as process:
        service.ready()
        code, seconds = end(process)
    os.close(reading)
    os.close(writing)
    assert code == 0 and seconds < LOADED_S


def test_while_a_reload_opens_something(service: Service) -> None:
    service.sabotage = (
        SLOW_ENGINES.format(when="hasattr(StageGraph, 'second')")
        + "\n"
        + (
            "first = StageGraph.open\n"
            "def mark(graph, on_cpu=False):\n    first(graph, on_cpu)\n    StageGraph.second = True\n"
            "StageGraph.open = mark\n"
        )
    )
    with started(service) as process:
        service.ready()
        process.send_signal(signal.SIGHUP)
        says(process, "opening")
        code, seconds = end(process)
    assert code == 0 and seconds < LOADED_S


def test_lost_engines_are_exit_code_4_after_the_last_safe_decision(service: Service) -> None:
    marker = service.folder / "lost"
    service.sabotage = FAILING_ENGINES.format(marker=str(marker))
    service.more = (
        CAMERA.format(device=_moving_picture(service.folder)) + "[engine]\nfallback = false\nbackend = 'onnxruntime'\n"
    )
    with started(service) as process, Subscriber(f"ipc://{service.folder}/out") as subscriber:
        last = None
        while subscriber.status is None or subscriber.status.state != "stopped":
            message = subscriber.receive(WAIT_S)
            assert message is not None
            marker.touch()  # somebody listens: what is said last is heard
            last = message if hasattr(message, "label") else last
        assert last is not None and last.source == "safe"
        assert process.wait(WAIT_S) == 4


@pytest.mark.parametrize(("managed", "code"), [(False, 2), (True, 75)], ids=["by hand", "as a service"])
def test_an_endpoint_that_is_held_is_final_only_by_hand(service: Service, managed: bool, code: int) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(service.folder / "in"))
        other.listen()
        if managed:
            service.environment = {"NOTIFY_SOCKET": str(service.folder / "nobody")}
        with started(service) as process:
            assert process.wait(WAIT_S) == code


def test_a_mistake_in_the_file_is_final(service: Service) -> None:
    service.more = "nonsense = 1\n"
    service.environment = {"NOTIFY_SOCKET": str(service.folder / "nobody")}
    with started(service) as process:
        assert process.wait(WAIT_S) == 2


def test_a_full_disk_and_a_held_decision_port_are_no_end(service: Service) -> None:
    service.more = RECORDING.format(folder="/dev/full")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(service.folder / "out"))
        other.listen()
        with started(service) as process:
            time.sleep(2)
            assert process.poll() is None
            other.close()
            service.ready()
            assert end(process)[0] == 0


def _moving_picture(folder: Path) -> Path:
    from tests.capture.test_sources import write_video

    return write_video(folder / "v.mp4", 60)
