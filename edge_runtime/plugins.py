"""Kinds of sources and sinks that other installed packages bring, found through their entry points."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import Struct

from edge_runtime.errors import ConfigError

SOURCES = "edge_runtime.sources"
SINKS = "edge_runtime.sinks"


def kinds(group: str) -> list[str]:
    """The kinds that installed packages bring to `group`; nothing is imported."""
    from importlib.metadata import entry_points

    return sorted({item.name for item in entry_points(group=group)})


@cache
def find(group: str, kind: str) -> type[Any]:
    """The class behind `kind`, which brings its `Settings` with it. Imports it; raises ConfigError that names it."""
    from importlib.metadata import entry_points

    (entry, *others) = entry_points(group=group, name=kind)
    where = f"kind {kind!r} of {entry.value}"
    if others:
        raise ConfigError(f"kind {kind!r} is brought by {entry.value} and {others[0].value}; uninstall one")
    try:
        cls = entry.load()
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise ConfigError(f"{where}: cannot be imported ({type(error).__name__}: {error})") from None
    settings = getattr(cls, "Settings", None)
    if not (isinstance(cls, type) and isinstance(settings, type) and issubclass(settings, Struct)):
        raise ConfigError(f"{where}: is no class with a msgspec Struct called Settings")
    rules = settings.__struct_config__
    if not (rules.frozen and rules.forbid_unknown_fields):
        raise ConfigError(f"{where}: its Settings must be frozen=True, forbid_unknown_fields=True")
    _classes[settings] = cls
    _kinds[settings] = kind
    return cls


def class_of(settings: Struct) -> type[Any] | None:
    """The class that `find` gave for these settings."""
    return _classes.get(type(settings))


def kind_of(settings: Struct) -> str:
    """The kind whose settings these are, of those that `find` gave."""
    return _kinds[type(settings)]


_classes: dict[type, type[Any]] = {}
_kinds: dict[type, str] = {}
