"""What a stage left behind, and whether it still stands: digests of what went in and of what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

RECORD = "stages.json"


class Done(Struct, frozen=True):
    """One finished stage."""

    key: str
    """sha256 over everything that went in: settings, artefacts of earlier stages, data."""
    outputs: dict[str, str]
    """Path below the work folder to sha256."""
    seconds: float


def digest(path: Path) -> str:
    """sha256 (hex) of a file, or of the names and contents of all files in a folder; empty if there is nothing."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return ""
    total = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Path below `folder` to its digest."""
    return {name: digest(folder / name) for name in names}


def key_of(settings: Any, inputs: Mapping[str, str]) -> str:
    """One digest for all that a stage depends on; `settings` is anything that msgspec can write."""
    return hashlib.sha256(msgspec.json.encode([settings, dict(inputs)], order="deterministic")).hexdigest()


def read_record(work: Path) -> dict[str, Done]:
    """Stage to what it left; empty where there is no record, or none that can be read (then all is built again)."""
    try:
        return msgspec.json.decode((work / RECORD).read_bytes(), type=dict[str, Done])
    except (OSError, msgspec.DecodeError):
        return {}


def write_record(work: Path, record: Mapping[str, Done]) -> None:
    """Keep `record`, whole or not at all."""
    fresh = work / f"{RECORD}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(dict(record)), indent=1) + b"\n")
    fresh.replace(work / RECORD)


def stands(work: Path, done: Done | None, key: str) -> bool:
    """Whether a stage need not run: the same went in, and what came out is still there unchanged."""
    return done is not None and done.key == key and done.outputs == digests(work, done.outputs)
