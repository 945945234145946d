"""Files of an installed package, found by what its installer wrote down: nothing of the package is imported.

`pip install --no-deps NAME==VERSION` puts one there; nothing is ever fetched by the build itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from edge_runtime.errors import UserError


@dataclass(frozen=True)
class InstalledPackage:
    """A package of this Python, of the version that was asked for."""

    pin: str
    """`NAME==VERSION`."""
    distribution: Distribution

    def file(self, name: str, sha256: str = "") -> Path:
        """Where the package's file `name` lies (as its list of files spells it). Raises UserError where there is none,
        or where its contents are not those of `sha256` (hex)."""
        listed = [entry for entry in self.distribution.files or () if entry.as_posix() == name]
        path = Path(str(listed[0].locate())) if listed else None
        if path is None or not path.is_file():
            raise UserError(f"package {self.pin}: has no file {name}; install it again: {self.command}")
        if sha256:
            check_digest(path, sha256, f"install it again: {self.command}")
        return path

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install --no-deps --force-reinstall {self.pin}"

    @property
    def licence_files(self) -> tuple[Path, ...]:
        """Licences and notices beside the package's metadata."""
        entries = [entry for entry in self.distribution.files or () if ".dist-info" in entry.parts[0]]
        kept = [
            entry for entry in entries if entry.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "COPYING"))
        ]
        return tuple(Path(str(entry.locate())) for entry in kept)


def find_package(pin: str) -> InstalledPackage:
    """The installed package `pin`, `NAME==VERSION`. Raises UserError where it is not there, or of another version."""
    name, equals, version = pin.partition("==")
    if not equals or not name or not version:
        raise UserError(f"package is {pin!r}; give one version of it: NAME==VERSION")
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"package {pin}: is not installed; run pip install --no-deps {pin}") from None
    if found.version != version:
        raise UserError(f"package {pin}: {found.version} is installed; run pip install --no-deps {pin}")
    return InstalledPackage(pin, found)


def check_digest(path: Path, sha256: str, remedy: str) -> None:
    """Raises UserError if the file at `path` is not the one with this sha256 (hex)."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != sha256:
        raise UserError(f"{path}: its sha256 is {actual[:12]}..., not {sha256[:12]}...; {remedy}")
