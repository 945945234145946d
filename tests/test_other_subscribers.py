"""Subscribers that are not ours: plain pyzmq as the README shows it, and Node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.runtime import Runtime
from tests.conftest import running, tiny_config

ROOT = Path(__file__).parent.parent
NODE = ROOT / "tests" / "subscriber.mjs"


def test_the_readme_s_plain_pyzmq_subscriber_reads_decisions(tiny_bundle_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "zmq.SUB" in block]
    assert len(blocks) == 1
    with running(Runtime(tiny_config(tiny_bundle_path))) as runtime:
        code = blocks[0].replace("tcp://127.0.0.1:5560", runtime.decisions_endpoint)
        line = [sys.executable, "-u", "-c", code]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        process.kill()
        process.wait()
    assert "stop" in first


def test_a_node_script_reads_decisions(tiny_bundle_path: Path) -> None:
    """No ZeroMQ library at all: the script speaks ZMTP 3 over a plain socket, as any language can."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    with running(Runtime(tiny_config(tiny_bundle_path))) as runtime:
        host, port = runtime.decisions_endpoint.removeprefix("tcp://").split(":")
        result = subprocess.run([node, NODE, host, port, "3"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    decisions = [json.loads(line) for line in result.stdout.splitlines()]
    assert [decision["label"] for decision in decisions] == ["stop"] * 3
    numbers = [decision["seq"] for decision in decisions]
    assert numbers == sorted(numbers)
