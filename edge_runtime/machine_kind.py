"""What kind of machine this is, as far as numbers depend on it: to the last bit the same ones come out only of the same
instructions and libraries.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec import Struct

INSTRUCTIONS = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Those by which inference and picture libraries choose how to compute, as Linux calls them (x86, then arm64)."""
LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "numpy", "simplejpeg", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_cu13")


class MachineKind(Struct, frozen=True):
    """Of the machine that decided."""

    architecture: str
    """As `uname -m` tells."""
    instructions: tuple[str, ...] = ()
    libraries: dict[str, str] = {}
    """Name to version."""
    gpus: tuple[str, ...] = ()
    """With the driver's version."""

    def differences(self, here: MachineKind) -> list[str]:
        """How `here` is another kind, in words; empty where it is the same."""
        words = []
        if self.architecture != here.architecture:
            words.append(f"{self.architecture} there, {here.architecture} here")
        elif self.instructions != here.instructions:
            there_only = sorted(set(self.instructions) - set(here.instructions))
            here_only = sorted(set(here.instructions) - set(self.instructions))
            words.append(
                "instructions: " + "; ".join(filter(None, (_only(there_only, "there"), _only(here_only, "here"))))
            )
        for name in sorted(self.libraries.keys() | here.libraries.keys()):
            there, now = self.libraries.get(name, "none"), here.libraries.get(name, "none")
            if there != now:
                words.append(f"{name} {there} there, {now} here")
        if self.gpus != here.gpus:
            words.append(f"{', '.join(self.gpus) or 'no GPU'} there, {', '.join(here.gpus) or 'none'} here")
        return words


@functools.cache
def machine_kind() -> MachineKind:
    """This machine's. What it does not tell is left out."""
    import cv2

    libraries = {name: found for name in LIBRARIES if (found := _version(name))}
    return MachineKind(
        platform.machine(),
        instructions(_text("/proc/cpuinfo")),
        libraries | {"opencv": cv2.__version__},
        tuple(_gpus()),
    )


def instructions(cpuinfo: str) -> tuple[str, ...]:
    """Those of INSTRUCTIONS that /proc/cpuinfo tells of, in that order."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    told = next((set(words.split()) for key, _, words in lines if key.strip() in ("flags", "Features")), set())
    return tuple(name for name in INSTRUCTIONS if name in told)


def _gpus() -> Iterator[str]:
    """NVIDIA's: of a card, or the board's own."""
    words = _text("/proc/driver/nvidia/version").split("Kernel Module", 1)[-1].split()
    driver = words[0] if words else "unknown driver"
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = next((line for line in _text(str(path)).splitlines() if line.startswith("Model:")), "")
        yield f"{model.removeprefix('Model:').strip()} ({driver})"
    if (board := _text("/proc/device-tree/model").strip("\0 \n")) and "NVIDIA" in board:
        yield board


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _only(names: list[str], where: str) -> str:
    return f"{', '.join(names)} {where} only" if names else ""
