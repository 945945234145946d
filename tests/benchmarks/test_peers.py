"""The peers' environments and programs; the programs themselves run where their packages are installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.live import run_user_loop
from benchmarks.peers import command
from edge_runtime.errors import UserError


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    (folder / "bin").mkdir(parents=True)
    (folder / "ready").touch()
    assert command._environment(folder, "/no/such/python", ()) == str(folder / "bin" / "python")


def test_one_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="peers: .* cannot be made"):
        command._environment(tmp_path / "peer", str(tmp_path / "no-python"), ())


def test_every_peer_names_a_program_that_is_there() -> None:
    for module, packages in command.PEERS.values():
        assert Path(command.__file__).with_name(f"{module}.py").is_file()
        assert all("==" in package or "<" in package or package.startswith("nvidia-cuda") for package in packages)


def test_a_program_that_ends_without_a_word_is_named(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="ended with 3"):
        run_user_loop([sys.executable, "-c", "raise SystemExit(3)"], f"ipc://{tmp_path}/e")
