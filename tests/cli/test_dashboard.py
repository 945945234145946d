"""`edge-runtime dashboard`: a process of its own that shows what a service publishes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from edge_runtime.runtime import Runtime
from tests.conftest import WAIT_S, running, tiny_config
from tests.dashboard.looker import Looker, ask
from tests.test_runtime import Vehicle


def test_it_shows_a_running_service_from_outside_and_ends_at_ctrl_c(tiny_bundle_path: Path) -> None:
    with running(Runtime(tiny_config(tiny_bundle_path, name="car"))) as runtime:
        vehicle = Vehicle(runtime)
        vehicle.answer(240, "f1")
        line = ["dashboard", "--connect", runtime.decisions_endpoint, "--bind", "tcp://127.0.0.1:*"]
        page = subprocess.Popen([sys.executable, "-m", "edge_runtime", *line], stdout=subprocess.PIPE, text=True)
        try:
            assert page.stdout is not None
            endpoint, *_ = page.stdout.readline().split()
            assert b"timeline" in ask(endpoint)[2]
            looker = Looker(endpoint)
            kind, hello = looker.next()
            assert kind == "hello" and "shows" not in hello, "neither pictures nor log are at hand"
            decided = hello.get("decision") or looker.find("decision")
            assert decided["name"] == "car"
            vehicle.answer(20, "f2")
            while decided["label"] != "dark":
                decided = looker.find("decision")
            assert looker.find("status")["bundle"]["name"] == "tiny"
            looker.close()
            page.send_signal(signal.SIGINT)
            assert page.wait(WAIT_S) == 0
        finally:
            page.kill()
            page.wait()
            vehicle.close()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for options, told in (
        (("--bind", "tcp://0.0.0.0:5562"), "give token_file"),
        (("--bind", "127.0.0.1:5562"), "expected tcp://ADDRESS:PORT"),
        (("--token-file", str(tmp_path / "none")), "No such file"),
        (("--connect", "nowhere"), "expected tcp://ADDRESS:PORT"),
    ):
        line = [sys.executable, "-m", "edge_runtime", "dashboard", *options]
        done = subprocess.run(line, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
