"""Which recordings there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from build_engines.data.recordings import MARKER
from edge_runtime.errors import UserError


class Source(Struct, frozen=True):
    """A recording by name."""

    id: str
    """Its path below the folder that was given, without `.mcap`."""
    path: str
    condition: str
    """The folder that it lies in, below the one that was given; empty in that one itself."""


def find(places: Sequence[Path]) -> list[Source]:
    """The recordings of `places` (folders, files, and `.txt` files that name one a line), by id. Raises UserError where
    there are none, or two of one id."""
    found = sorted((source for place in places for source in _at(place)), key=lambda source: source.id)
    for one, other in pairwise(found):
        if one.id == other.id:
            raise UserError(
                f"recordings: {one.path} and {other.path} are both called {one.id!r}; name a folder that holds both"
            )
    if not found:
        raise UserError(f"recordings: no {MARKER} below {', '.join(map(str, places))}; check the path")
    return found


def _at(place: Path) -> Iterator[Source]:
    if place.is_dir():
        for path in place.rglob(MARKER):
            yield _source(path, place)
    elif place.suffix == ".txt":
        for path in _listed(place):
            yield _source(path, place.parent)
    elif place.is_file():
        yield _source(place, place.parent)
    else:
        raise UserError(f"recordings {place}: there is neither a folder nor a file; check the path")


def _listed(place: Path) -> Iterator[Path]:
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recordings {place}: cannot be read ({error}); name a recording a line") from None
    return (place.parent / line.strip() for line in lines if line.strip())


def _source(path: Path, root: Path) -> Source:
    below = path.relative_to(root) if path.is_relative_to(root) else path
    condition = below.parent.as_posix()
    return Source(below.with_suffix("").as_posix(), str(path), "" if condition == "." else condition)
