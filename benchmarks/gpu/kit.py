"""Pack what `python -m benchmarks gpu` needs into one folder that runs on a machine without a network.

    python -m benchmarks.gpu.kit --out build/gpu-kit [--python 3.12] [--tensorrt-rtx]

For x86-64 with CUDA 13, Python 3.12, torch, NumPy, OpenCV, onnx and onnxruntime: everything else comes along as
wheels, PyCUDA as source (and as a wheel where it can be built here). `sh run.sh OUT` starts it there.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from edge_runtime.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
THERE = ("torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime")
"""What the other machine has, with all that these need in turn."""
SOURCES = (
    "benchmarks",
    "calibration",
    "build_engines",
    "edge_runtime",
    "tests",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
BROUGHT = (
    *("cuda-bindings>=13,<14", "pytest", "pytest-timeout", "hypothesis", "jsonschema", "psutil", "matplotlib"),
    *("setuptools", "wheel"),
)
"""What comes along beside the project's own dependencies."""
PYCUDA = "pycuda>=2024.1"
PYCUDA_NEEDS = ("mako", "platformdirs", "pytools", "siphash24")
TENSORRT_RTX = ("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116")
MAX_MIB = 60
PART_MIB = 30
MANYLINUX = (39, 36, 35, 34, 31, 28, 27, 26, 24, 17)
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in MANYLINUX), "manylinux2014_x86_64", "manylinux1_x86_64")
"""pip compares platforms letter by letter: every glibc up to that of the other machine is named."""
RUN = """#!/bin/sh
# Everything that can be proven and measured on this machine's GPU: sh run.sh [OUT] [options of `benchmarks.gpu`]
# Installs into a folder of its own; nothing outside this folder and OUT is touched. No network is used.
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
out=${1:-$kit/report}
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
site=$kit/site
if [ ! -e "$site/.ready" ]; then
    rm -rf "$site" "$kit/project"
    mkdir -p "$site" "$kit/project"
    tar -xJf "$kit/project.tar.xz" -C "$kit/project"
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$kit"/wheels/*.whl
    "$python" "$kit/project/benchmarks/gpu/unpack.py" "$kit/tensorrt-rtx" "$site"
    touch "$site/.ready"
fi
export PYTHONPATH="$site:$kit/project${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$kit/project"
if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pycuda") is None)'; then
    PIP_NO_INDEX=1 PIP_FIND_LINKS="$kit/wheels" PIP_TARGET="$site" PIP_NO_DEPS=1 PIP_NO_BUILD_ISOLATION=0 \\
        "$python" -m tests.cuda.build_pycuda || echo "pycuda cannot be built here: its part is left out"
fi
exec "$python" -m benchmarks.gpu --out "$out" "$@"
"""


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/gpu-kit"), show_default=True
)
@click.option("--python", "version", default="3.12", show_default=True, help="Python of the other machine.")
@click.option("--interpreter", help="A Python of that version here, with its headers: builds PyCUDA's wheel.")
@click.option("--tensorrt-rtx", is_flag=True, help="Also pack TensorRT-RTX, as a second part in pieces (60 MiB).")
def main(out: Path, version: str, interpreter: str | None, tensorrt_rtx: bool) -> None:
    """Write the kit into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    click.echo("the project")
    pack_project(out / "project.tar.xz")
    needed = names_needed((*dependencies(), *BROUGHT), version)
    there = {normal(requirement) for requirement in names_needed(THERE, version)}
    brought = [requirement for requirement in needed if normal(requirement) not in there]
    click.echo(f"wheels: {len(brought)} packages")
    download(wheels, (*brought, *PYCUDA_NEEDS), version)
    click.echo("PyCUDA")
    pip("download", "--no-deps", "--no-binary=pycuda", "-d", str(wheels), PYCUDA)
    if interpreter is not None:
        build_pycuda(wheels, interpreter)
    (out / "run.sh").write_text(RUN, encoding="utf-8")
    (out / "run.sh").chmod(0o755)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    if size > MAX_MIB:
        raise UserError(f"gpu-kit: {size:.1f} MiB, at most {MAX_MIB} are meant; leave something out of BROUGHT")
    if tensorrt_rtx:
        click.echo("TensorRT-RTX (takes minutes)")
        pack_tensorrt_rtx(out / "tensorrt-rtx", version)
    click.echo(f"{out}: {size:.1f} MiB; start it with: sh {out}/run.sh")


def dependencies() -> list[str]:
    """The project's own, but for those that are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [one for one in project["dependencies"] if normal(one) not in THERE]


def pack_project(archive: Path) -> None:
    """The project's files, as they are in the working tree, and its name and version for whoever asks what is
    installed: it runs there without being installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    with tarfile.open(archive, "w:xz") as tar:
        for name in sorted(filter(None, listed)):
            if (ROOT / name).is_file():
                tar.add(ROOT / name, name)
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        metadata = f"Metadata-Version: 2.1\nName: edge-runtime\nVersion: {version}\n".encode()
        entry = tarfile.TarInfo(f"edge_runtime-{version}.dist-info/METADATA")
        entry.size = len(metadata)
        tar.addfile(entry, io.BytesIO(metadata))


def names_needed(requirements: Iterable[str], version: str) -> list[str]:
    """`name==version` of `requirements` and all that they need, for a machine of the kind meant."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = [
            "install",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
            *_target(version),
            "--target",
            folder,
        ]
        pip(*options, *requirements)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [f"{package['metadata']['name']}=={package['metadata']['version']}" for package in found]


def download(folder: Path, requirements: Sequence[str], version: str) -> None:
    """Wheels of exactly these."""
    pip("download", "--no-deps", "-d", str(folder), *_target(version), *requirements)


def build_pycuda(wheels: Path, interpreter: str) -> None:
    """A wheel beside the source, which saves two minutes on a machine that is lent by the minute."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "env"
        subprocess.run([interpreter, "-m", "venv", str(environment)], check=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "setuptools", "wheel", "numpy"], check=True)
        line = [python, "-m", "tests.cuda.build_pycuda", "--wheel", str(wheels.resolve())]
        subprocess.run(line, cwd=ROOT, check=True)


def pack_tensorrt_rtx(folder: Path, version: str) -> None:
    """Its two wheels as one stream, cut into pieces: recompressed they are a third smaller."""
    folder.mkdir()
    filters = [
        {"id": lzma.FILTER_X86},
        {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 256 << 20},
    ]
    with tempfile.TemporaryDirectory() as temporary:
        download(Path(temporary), TENSORRT_RTX, version)
        whole = Path(temporary) / "whole.tar.xz"
        with lzma.open(whole, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            for wheel in sorted(Path(temporary).glob("*.whl")):
                with zipfile.ZipFile(wheel) as packed:
                    for item in packed.infolist():
                        if not item.is_dir():
                            entry = tarfile.TarInfo(item.filename)
                            entry.size, entry.mode = item.file_size, 0o755
                            with packed.open(item) as data:
                                tar.addfile(entry, data)
        with whole.open("rb") as source:
            for number in range(1000):
                piece = source.read(PART_MIB << 20)
                if not piece:
                    break
                (folder / f"tensorrt-rtx.tar.xz.{number:03d}").write_bytes(piece)


def normal(requirement: str) -> str:
    """A package's name as the index compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~ \[]", requirement)[0]).lower()


def pip(*arguments: str) -> None:
    """Run pip; what it says is shown only where it fails. Raises UserError."""
    line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"gpu-kit: pip {arguments[0]}: {(result.stderr.strip().splitlines() or ['failed'])[-1]}")


def _target(version: str) -> list[str]:
    platforms = [option for one in PLATFORMS for option in ("--platform", one)]
    return ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms]


if __name__ == "__main__":
    from edge_runtime.cli import run_command

    sys.exit(run_command(main))
