"""ONNX Runtime tells nobody what runs here: read off a process of its own, as the library decides at its import."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OURS = {
    "edge_runtime": "import edge_runtime.infer.onnxruntime_engine",
    "calibration": "import calibration.ranges",
    "build_engines": "import build_engines.quantisation.plan",
    "benchmarks": "import benchmarks.user_loop",
}
TRACED = "socket,connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2"
SEND_OR_WRITE = re.compile(
    r"(socket|connect|sendto|sendmsg|sendmmsg|creat|mkdir|mkdirat|rename\w*)\(|O_WRONLY|O_RDWR|O_CREAT"
)
SESSION = """
import onnxruntime
from onnx import TensorProto, helper
sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", sides[:1], sides[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def _environment(home: Path | None) -> dict[str, str]:
    hidden = ("HOME", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if home is not None:
        environment["HOME"] = str(home)
    return environment


def _run(code: str, home: Path | None) -> str:
    """What a fresh Python prints, both ways, that runs `code` with this home or none."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(home), capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout + done.stderr


def _sent_or_written(code: str, home: Path) -> list[str]:
    """The system calls of a fresh Python that runs `code`, and of all its threads, that could send or write."""
    log = home.parent / "calls.txt"
    trace = ["strace", "-f", "-qq", "-e", f"trace={TRACED}", "-o", str(log)]
    done = subprocess.run(
        [*trace, sys.executable, "-B", "-c", code],
        check=False,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip(f"strace may not look on here: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    calls = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [call for call in calls if SEND_OR_WRITE.search(call) and '"/dev/' not in call]


@pytest.mark.parametrize("first", OURS.values(), ids=OURS)
def test_nothing_of_onnxruntime_is_written_below_the_home(first: str, tmp_path: Path) -> None:
    assert _run(first + SESSION, tmp_path) == ""
    assert not [found for found in tmp_path.rglob("*") if "onnxruntime" in found.name or "Microsoft" in found.name]


def test_nothing_is_printed_without_a_home() -> None:
    assert _run(OURS["edge_runtime"] + SESSION, None) == ""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_nothing_is_sent_and_nothing_written_by_a_session(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run = SESSION.replace("onnxruntime.InferenceSession", "session = onnxruntime.InferenceSession")
    run += "import numpy, time\nsession.run(None, {'x': numpy.zeros((1, 2), numpy.float32)})\ntime.sleep(5)\n"
    assert _sent_or_written(OURS["edge_runtime"] + run, home) == []
    # It would be seen: a connection, and a file.
    seen = _sent_or_written(f"import socket; socket.socket().connect_ex(('127.0.0.1', 9)); open('{home}/x', 'w')", home)
    assert [next(word for word in ("socket(", "connect(", "O_CREAT") if word in call) for call in seen] == [
        "socket(",
        "connect(",
        "O_CREAT",
    ]
