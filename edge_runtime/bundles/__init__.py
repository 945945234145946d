"""The bundles that ship with the runtime, and the way to name them: `shipped:home`, `shipped:vehicle`."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError

PREFIX = "shipped:"
_FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names of the bundles that came with the installation."""
    return sorted(entry.name for entry in _FOLDER.iterdir() if (entry / "manifest.json").is_file())


def bundle_path(name: str) -> Path:
    """Path of the bundle called `shipped:<name>`, or `name` itself as a path. Raises ConfigError."""
    if not name.startswith(PREFIX):
        return Path(name)
    if name.removeprefix(PREFIX) not in shipped():
        raise ConfigError(f"bundle {name!r}: no such shipped bundle; there are {[PREFIX + item for item in shipped()]}")
    return _FOLDER / name.removeprefix(PREFIX)
