"""How a bundle is named: a path, `shipped:home` for one that came with the runtime, `slot:FOLDER` for one that was
installed.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.slots import Slots

PREFIX = "shipped:"
SLOT = "slot:"
_FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names of the bundles that came with the installation."""
    return sorted(entry.name for entry in _FOLDER.iterdir() if (entry / "manifest.json").is_file())


def bundle_path(name: str) -> Path:
    """Path of the bundle called `shipped:<name>`, of the one that runs from the slots in `slot:<folder>`, or `name`
    itself as a path. Raises UserError.
    """
    if name.startswith(SLOT):
        slots = Slots(Path(name.removeprefix(SLOT)))
        if (current := slots.read().current) is None:
            raise BundleError(f"slots {slots.folder}: nothing is installed; use `edge-runtime bundle install`")
        return slots.path(current)
    if not name.startswith(PREFIX):
        return Path(name)
    if name.removeprefix(PREFIX) not in shipped():
        raise ConfigError(f"bundle {name!r}: no such shipped bundle; there are {[PREFIX + item for item in shipped()]}")
    return _FOLDER / name.removeprefix(PREFIX)
