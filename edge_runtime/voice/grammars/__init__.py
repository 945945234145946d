"""Grammars for the bundles that are shipped, `shipped:NAME` in a configuration."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.voice.grammar import Grammar, parse_bytes

_FOLDER = Path(__file__).parent


def shipped_text(name: str) -> bytes:
    """One's file. Raises ConfigError that lists the names."""
    names = sorted(file.stem for file in _FOLDER.glob("*.txt"))
    if name not in names:
        raise ConfigError(f"grammar 'shipped:{name}': there is none; there are {', '.join(names)}")
    return (_FOLDER / f"{name}.txt").read_bytes()


def shipped_grammar(name: str) -> Grammar:
    """Raises ConfigError that lists the names."""
    return parse_bytes(shipped_text(name), f"shipped:{name}")
