"""What `doctor` asks of the machine, in one place, so that a folder can stand for another machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One check's answer; `advice` says how to mend it."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    detail: str
    advice: str = ""
    paste: str = ""
    """Lines for a configuration, printed as they are."""


def _module_file(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _opencv_build() -> str:
    import cv2

    return str(cv2.getBuildInformation())


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _served_cuda() -> int | None:
    from edge_runtime.cuda.driver import served_cuda

    return served_cuda()


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True)
class Host:
    """This machine, unless told otherwise."""

    root: Path = Path("/")
    python: tuple[int, int] = field(default_factory=lambda: (sys.version_info[0], sys.version_info[1]))
    module_file: Callable[[str], Path | None] = _module_file
    """Where this interpreter finds a module, without importing it; None if nowhere."""
    opencv_build: Callable[[], str] = _opencv_build
    """OpenCV's account of what it was built with; raises ImportError where there is none."""
    package_version: Callable[[str], str | None] = _package_version
    """The version of an installed package; None if it is not."""
    served_cuda: Callable[[], int | None] = _served_cuda
    """The CUDA version that the driver serves (12060: 12.6); None without a driver."""
    may_use: Callable[[Path], bool] = _may_use
    """Whether this user may read and write a file."""

    def text(self, path: str) -> str:
        """A file's text without the zero byte that device trees end in; empty if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
        except OSError:
            return ""

    def files(self, *patterns: str) -> list[Path]:
        """All files that match, in name order."""
        return sorted({path for pattern in patterns for path in self.root.glob(pattern)})
