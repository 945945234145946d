"""Packages that only some of what can be configured needs."""

from __future__ import annotations

from importlib.util import find_spec

from edge_runtime.errors import ConfigError


def need(who: str, extra: str, **packages: str) -> None:
    """Raise ConfigError where one of `packages` (module to its name on the index) is not installed; nothing is
    imported. `extra` of this package brings them."""
    missing = [name for module, name in packages.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(f"{who} needs {' and '.join(missing)}; pip install 'edge-runtime[{extra}]'")
