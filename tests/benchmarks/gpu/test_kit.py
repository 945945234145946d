"""What the kit is made of; that it runs without a network is tried with `make gpu-kit` and its `run.sh`."""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.gpu import kit, unpack


def test_the_project_is_packed_whole_and_runs_from_there(tmp_path: Path) -> None:
    archive = tmp_path / "project.tar.xz"
    kit.pack_project(archive)
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        tar.extractall(tmp_path / "project", filter="data")
    assert {"benchmarks/gpu/command.py", "tests/cuda/test_devices.py", "pyproject.toml"} <= names
    assert "edge_runtime/bundles/home/manifest.json" in names
    assert not any(name.startswith((".git/", "build/", ".venv")) for name in names)
    line = [sys.executable, "-P", "-m", "benchmarks.gpu", "--help"]
    unpacked = {"PYTHONPATH": str(tmp_path / "project")}
    result = subprocess.run(line, cwd=tmp_path, env=unpacked, capture_output=True, text=True, check=False)
    assert "each part with a time limit" in result.stdout, result.stderr
    # There it is not installed, and is asked for its version all the same.
    asked = "from importlib.metadata import distribution as d; print(d('edge-runtime').locate_file(''))"
    line = [sys.executable, "-P", "-c", asked]
    result = subprocess.run(line, cwd=tmp_path, env=unpacked, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == tmp_path / "project"


def test_the_start_line_is_a_script_that_a_plain_shell_reads(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(kit.RUN)
    subprocess.run(["sh", "-n", script], check=True)


def pieces(folder: Path, size: int) -> int:
    """A second part as the kit packs it, in pieces of that size; how many."""
    folder.mkdir()
    buffer = io.BytesIO()
    with lzma.open(buffer, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in ("tensorrt_rtx_bindings/__init__.py", "libs/lib.so"):
            entry = tarfile.TarInfo(name)
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"a = 1"))
    data = buffer.getvalue()
    for number, start in enumerate(range(0, len(data), size)):
        (folder / f"tensorrt-rtx.tar.xz.{number:03d}").write_bytes(data[start : start + size])
    return -(-len(data) // size)


def test_pieces_are_joined_and_the_plain_name_imports_the_bindings(tmp_path: Path) -> None:
    assert pieces(tmp_path / "pieces", 50) > 2
    unpack.main(tmp_path / "pieces", tmp_path / "site")
    assert (tmp_path / "site" / "libs" / "lib.so").read_bytes() == b"a = 1"
    assert "tensorrt_rtx_bindings" in (tmp_path / "site" / "tensorrt_rtx" / "__init__.py").read_text()


def test_a_missing_piece_leaves_the_part_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pieces(tmp_path / "pieces", 50)
    (tmp_path / "pieces" / "tensorrt-rtx.tar.xz.001").unlink()
    unpack.main(tmp_path / "pieces", tmp_path / "site")
    assert "a piece is missing" in capsys.readouterr().out
    assert not (tmp_path / "site").exists()


def test_names_compare_as_the_index_compares_them() -> None:
    assert kit.normal("Markdown_It.py==3.0") == "markdown-it-py"
    assert kit.normal("cuda-bindings>=13,<14") == "cuda-bindings"


def test_all_that_the_device_needs_comes_along_or_is_there() -> None:
    named = {kit.normal(one) for one in kit.dependencies()} | set(kit.THERE)
    assert {"simplejpeg", "pyzmq", "msgspec", "cryptography", "mcap"} <= named
    assert not {"numpy", "opencv-python-headless"} & {kit.normal(one) for one in kit.dependencies()}
