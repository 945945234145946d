from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from edge_runtime import Subscriber
from edge_runtime.cli import EXIT_BUG, EXIT_GATE, EXIT_USER, run_command
from edge_runtime.errors import GateRefused
from edge_runtime.runtime import Runtime
from tests.conftest import WAIT_S, running, tiny_config, wait_for


def command(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edge_runtime", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


MISTAKES = {
    "no config": (["run", "none.toml"], "cannot be read"),
    "no bundle": (["bundle", "verify", "nowhere"], "no such directory"),
    "no shipped bundle": (["bundle", "inspect", "shipped:moon"], "no such shipped bundle; there are"),
    "no recording": (["replay", "none.mcap"], "cannot be read"),
    "nowhere to record": (["record", "none.toml"], "--out"),
    "no command": (["fly"], "No such command"),
    "no runtime": (["send", "text", "hello", "--connect", "ipc:///nonexistent/socket"], "error"),
    "bad value": (["send", "sensor", "co2"], "expected CHANNEL=NUMBER"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_user_s_mistake_is_exit_code_2_without_a_trace(what: str, tmp_path: Path) -> None:
    arguments, message = MISTAKES[what]
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == EXIT_USER, result.stderr
    assert message in result.stderr or "error" in result.stderr
    assert "Traceback" not in result.stderr


def test_gates_and_bugs_have_their_own_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    import click

    @click.command()
    def refused() -> None:
        raise GateRefused("f1 0.5 < 0.6")

    @click.command()
    def broken() -> None:
        raise ZeroDivisionError

    @click.command()
    def incomplete() -> None:
        import edge_runtime.nowhere  # noqa: F401

    assert run_command(incomplete, []) == EXIT_BUG  # a module of our own that is missing is no user's mistake
    assert "Traceback" in capsys.readouterr().err
    assert run_command(refused, []) == EXIT_GATE
    assert run_command(broken, []) == EXIT_BUG
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_bundle_verify_and_inspect(tiny_bundle_path: Path) -> None:
    assert command("bundle", "verify", tiny_bundle_path).returncode == EXIT_USER
    verified = command("bundle", "verify", tiny_bundle_path, "--allow-unsigned")
    assert (verified.returncode, "NOT SIGNED" in verified.stdout) == (0, True)
    shown = command("bundle", "inspect", tiny_bundle_path, "--allow-unsigned", env=os.environ | {"COLUMNS": "160"})
    assert shown.returncode == 0
    for expected in ("camera (trigger)", "a (m), b (s)", "window 4 x 100 ms", "safe decision 'stop'", "vision"):
        assert expected in shown.stdout
    raw = command("bundle", "inspect", tiny_bundle_path, "--allow-unsigned", "--json")
    assert json.loads(raw.stdout)["name"] == "tiny"


def test_send_and_listen_talk_to_a_runtime(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with running(Runtime(tiny_config(tiny_bundle_path))) as runtime:
        inputs = runtime.input_endpoints[0]
        assert command("send", "text", "please stop", "--connect", inputs).returncode == 0
        assert command("send", "sensor", "a=2.5", "b=1", "--connect", inputs).returncode == 0
        captured = runtime.captured
        wait_for(lambda: captured("text") == 1 and captured("sensors") == 1, "the messages")
        summary = tmp_path / "summary.json"
        seen = command(
            "listen", "--connect", runtime.decisions_endpoint, "--seconds", "1.5", "--summary", summary, "--all"
        )
    assert seen.returncode == 0
    assert "camera missing" in seen.stdout
    found = json.loads(summary.read_text())
    assert found["received"] > 2 and found["lost"] == 0
    assert found["status"]["conserved"]


def test_listen_gives_json_lines(tiny_bundle_path: Path) -> None:
    with running(Runtime(tiny_config(tiny_bundle_path))) as runtime:
        seen = command("listen", "--connect", runtime.decisions_endpoint, "--seconds", "1", "--json")
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    assert lines and all(line["label"] == "stop" and line["source"] == "safe" for line in lines)


CONFIG = 'name = "x"\nbundle = "{bundle}"\nallow_unsigned = true\n[[sink]]\nkind = "zmq"\nbind = "ipc://{folder}/out"\n'


def test_doctor_finds_a_healthy_machine_and_names_what_is_wrong(tiny_bundle_path: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    header = CONFIG.format(bundle=tiny_bundle_path, folder=tmp_path)
    good.write_text(header + f'[[source]]\nkind = "zmq"\nbind = "ipc://{tmp_path}/in"\n')
    healthy = command("doctor", good)
    assert healthy.returncode == 0, healthy.stdout
    assert "onnxruntime" in healthy.stdout

    bad = tmp_path / "bad.toml"
    bad.write_text(header + '[[source]]\nkind = "stdin"\n')
    sick = command("doctor", bad)
    assert sick.returncode == EXIT_USER
    assert "required stream 'camera' has no source" in " ".join(sick.stdout.split())


def test_a_port_that_is_taken_is_said_and_had_as_soon_as_it_is_free(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "c.toml"
        text = f'name = "x"\nbundle = "{tiny_bundle_path}"\nallow_unsigned = true\nsource = []\n'
        config.write_text(text + f'[[sink]]\nkind = "zmq"\nbind = "tcp://127.0.0.1:{port}"\n')
        line = [sys.executable, "-m", "edge_runtime", "run", str(config)]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "is another runtime running" in process.stderr.readline()
    try:
        with Subscriber(f"tcp://127.0.0.1:{port}") as subscriber:
            assert subscriber.receive(WAIT_S) is not None
        process.terminate()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()


def test_listen_without_a_runtime_ends_in_time() -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as silent:
        port = silent.bind_to_random_port("tcp://127.0.0.1")
        result = command("listen", "--connect", f"tcp://127.0.0.1:{port}", "--seconds", "0.5")
    assert result.returncode == 0
    assert WAIT_S > 0.5


@pytest.mark.parametrize("module", ["edge_runtime", "benchmarks", "build_engines"])
def test_without_a_command_it_lists_them(module: str) -> None:
    line = [sys.executable, "-m", module]
    result = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, "Commands:" in result.stdout) == (0, True)


@pytest.mark.parametrize("where", ["a text", "a file's name"])
def test_an_argument_that_is_not_utf_8_is_one_line(where: str, tmp_path: Path) -> None:
    latin = "größe".encode("latin-1")
    arguments = [b"send", b"text", latin] if where == "a text" else [b"replay", latin + b".mcap"]
    line = [os.fsencode(sys.executable), b"-m", b"edge_runtime", *arguments]
    environment = os.environ | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(line, capture_output=True, timeout=60, check=False, cwd=tmp_path, env=environment)
    told = result.stderr.decode()
    assert result.returncode == EXIT_USER
    assert "is not UTF-8; set the terminal to UTF-8" in told
    assert len(told.splitlines()) == 1
