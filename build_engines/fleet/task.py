"""What is done to one recording, wherever it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from build_engines.fleet.recordings import Source
from build_engines.fleet.store import Store
from edge_runtime.errors import UserError

Map = Callable[[Path], Struct]
"""A recording to its partial. Raises what is wrong with it."""


class Task(Protocol):
    """Can be pickled; what is costly is opened once in each process that works."""

    @property
    def key(self) -> str:
        """Digest of all that its partials depend on beside the recording."""

    def open(self) -> Map:
        """Raises UserError."""


class Done(Struct, frozen=True):
    """A recording's partial."""

    id: str
    data: bytes
    """As `encoded`."""
    kept: bool
    """It was there already."""


class LeftOut(Struct, frozen=True):
    """A recording that nothing could be made of."""

    id: str
    reason: str


Outcome = Done | LeftOut


def encoded(partial: Struct) -> bytes:
    """The same bytes for equal partials."""
    return msgspec.msgpack.encode(partial, order="deterministic")


def job(task: Task, store: Store | None) -> Callable[[Iterator[Source]], Iterator[Outcome]]:
    """`task` for one recording after the other; what `store` has is taken from there. Raises UserError where the task
    cannot be opened: that concerns all of them."""
    look = task.open()
    return lambda sources: (look_at(source, look, task.key, store) for source in sources)


def look_at(source: Source, look: Map, key: str, store: Store | None) -> Outcome:
    """The partial of one recording. Whatever is wrong with it is told beside its name: it must not take the others
    down."""
    try:
        path = Path(source.path)
        if store is None:
            return Done(source.id, encoded(look(path)), False)
        name = hashlib.sha256(f"{key} {content_digest(path)}".encode()).hexdigest()
        if (before := store.get(name)) is not None:
            return Done(source.id, before, True)
        data = encoded(look(path))
        store.put(name, data)
        return Done(source.id, data, False)
    except UserError as error:
        return LeftOut(source.id, str(error))
    except Exception as error:
        return LeftOut(source.id, f"{type(error).__name__}: {error}")


def content_digest(path: Path) -> str:
    """sha256 (hex) of a recording, and of the labels beside it. Raises UserError."""
    total = hashlib.sha256()
    try:
        for file in (path, path.with_suffix(".csv")):
            if file == path or file.is_file():
                total.update(_file_digest(file))
    except OSError as error:
        raise UserError(f"recording {path}: cannot be read ({error.strerror})") from None
    return total.hexdigest()


def _file_digest(path: Path) -> bytes:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.digest()
