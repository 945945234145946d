"""What a service loads before its first decision: nothing that this configuration has no use for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import Subscriber
from edge_runtime.cli import COMMANDS, commands
from edge_runtime.wire import DecisionMessage
from tests.conftest import WAIT_S

UNUSED = ("onnx", "google.protobuf", "mcap", "zstandard", "zmq", "rich", "prometheus_client", "importlib.metadata")
"""Slow to import, and for other rows, other commands and builds."""


def test_a_service_decides_without_the_libraries_that_it_has_no_use_for(tmp_path: Path) -> None:
    config, decisions = tmp_path / "car.toml", f"ipc://{tmp_path}/d"
    config.write_text(
        f'name = "car"\nbundle = "shipped:vehicle"\nallow_unsigned = true\n[[sink]]\nkind = "zmq"\n'
        f'bind = "{decisions}"\n[[source]]\nkind = "zmq"\nbind = "ipc://{tmp_path}/i"\n'
    )
    command = [sys.executable, "-X", "importtime", "-m", "edge_runtime", "run", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with Subscriber(decisions) as subscriber:
            while not isinstance(message := subscriber.receive(WAIT_S), DecisionMessage):
                assert message is not None
    finally:
        process.terminate()
        told = process.communicate()[1]
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    assert {"numpy", "onnxruntime", "edge_runtime.runtime"} <= loaded
    assert [name for name in UNUSED if name in loaded] == []
    assert [name for name in COMMANDS if f"edge_runtime.cli.{name}" in loaded] == ["reload", "run"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_found_by_its_name_and_has_help(name: str) -> None:
    command = commands.get_command(None, name)  # type: ignore[arg-type]  # the context is not looked at
    assert command is not None and command.name == name and command.get_short_help_str()
