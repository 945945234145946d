"""The Node example against a running service with keys."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from edge_runtime import keyring
from edge_runtime.config import ZmqSink
from edge_runtime.runtime import Runtime
from tests.conftest import running, tiny_config

pytest.importorskip("nacl", reason="PyNaCl is not installed")

FOLDER = Path(__file__).parents[2] / "examples" / "node"
NODE, NPM = shutil.which("node"), shutil.which("npm")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages: those that NODE_PATH has, or what npm brings by the lock file."""
    if NODE is None:
        pytest.skip("Node is not installed")
    place = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("node_modules"))
    there = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    if modules := next((folder for folder in there if (folder / "zeromq").is_dir()), None):
        (place / "node_modules").symlink_to(modules)
        return place
    if NPM is None:
        pytest.skip("npm is not installed, and NODE_PATH has no package zeromq")
    # The package brings what it needs built: nothing of it is run to install it.
    line = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=60000"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot fetch the packages: {' '.join(done.stderr.split())[-300:]}")
    return place


def listen(package: Path, endpoint: str, *more: str, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    line = [NODE, "listen.js", "--connect", endpoint, *more]
    return subprocess.run(line, cwd=package, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_decisions_come_to_who_has_a_key_and_to_nobody_else(
    package: Path, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keyring.make_server(keys)
    screen = keyring.make_client(keys, "screen", (), True, tmp_path / "screen.key.toml")
    sink = ZmqSink("tcp://127.0.0.1:*", keys=str(keys))
    settings = msgspec.structs.replace(tiny_config(tiny_bundle_path), sink=(sink,))
    with running(Runtime(settings)) as runtime:
        heard = listen(package, runtime.decisions_endpoint, "--keys", str(screen), "--count", "3", "--json")
        assert heard.returncode == 0, heard.stderr
        told = listen(package, runtime.decisions_endpoint, "--keys", str(screen), "--count", "1")
        with pytest.raises(subprocess.TimeoutExpired) as silence:
            listen(package, runtime.decisions_endpoint, "--count", "1", timeout_s=3)
    decisions = [json.loads(line) for line in heard.stdout.splitlines()]
    assert [decision["label"] for decision in decisions] == ["stop"] * 3
    numbers = [decision["seq"] for decision in decisions]
    assert numbers == sorted(numbers)
    assert " stop 0.00 safe (" in told.stdout
    assert not silence.value.stdout


def test_a_file_without_keys_is_said_to_be_none(package: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('server_key = "x"\n')
    done = listen(package, "tcp://127.0.0.1:1", "--keys", str(tmp_path / "other.toml"))
    assert done.returncode != 0 and "has no public_key" in done.stderr


def test_what_is_locked_is_what_is_asked_for() -> None:
    asked = json.loads((FOLDER / "package.json").read_text())
    locked = json.loads((FOLDER / "package-lock.json").read_text())
    assert locked["packages"][""]["dependencies"] == asked["dependencies"]
    assert all("integrity" in entry for name, entry in locked["packages"].items() if name)
