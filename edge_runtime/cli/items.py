"""What `edge-runtime predict` finds at a place: pictures, frames of a film, rows of a table, lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from edge_runtime.admit import Refusal
from edge_runtime.capture.film import FILMS, open_film
from edge_runtime.capture.picture_files import PICTURES, picture_files, read_picture
from edge_runtime.capture.tables import TABLES, column_named, is_missing, lines_of, number, read_rows
from edge_runtime.errors import UserError
from edge_runtime.specs import CameraStream, SensorStream, TextStream
from edge_runtime.streams import StreamSpec, kind, streams_of


class Item(NamedTuple):
    """One thing to decide on."""

    name: str
    """Of a film's frame or a file's row: the file's name, `#`, and its number from 1."""
    stream: str
    content: object
    """As `Pipeline.predict` takes it, or why it cannot be read."""
    film_hz: float = 0.0
    """Frames a second of the film that it is a frame of."""


def items_at(place: str, streams: Mapping[str, StreamSpec], chosen: str | None) -> Iterator[Item]:
    """The things at `place`, in order, read one at a time: a picture, a folder of pictures, a film, a table with a
    column per channel, a `.txt` with a sentence a line; where no such file is, `place` is a sentence itself.

    They go to the stream `chosen`, or the bundle's only one of their kind. Raises UserError, at once for what can be
    told at once.
    """
    path = Path(place)
    ending = path.suffix.lower()
    if path.is_dir():
        return _folder(path, _stream(streams, CameraStream, chosen, place))
    if not path.exists():
        if "/" in place or ending in (*PICTURES, *FILMS, *TABLES, ".txt"):
            raise UserError(f"predict: {place}: no such file or folder")
        return iter([Item(place, _stream(streams, TextStream, chosen, place), place)])
    if ending in FILMS:
        return _film(path, _stream(streams, CameraStream, chosen, place))
    if ending in TABLES:
        name = _stream(streams, SensorStream, chosen, place)
        return _table(path, name, streams[name])
    if ending == ".txt":
        return _lines(path, _stream(streams, TextStream, chosen, place))
    return _pictures([path], _stream(streams, CameraStream, chosen, place))


def _stream(streams: Mapping[str, StreamSpec], spec: type[Any], chosen: str | None, place: str) -> str:
    """The stream that takes what is at `place`."""
    names = list(streams_of(streams, spec))
    if chosen in names:
        return chosen
    if len(names) == 1:
        return names[0]
    every = ", ".join(f"{name} ({kind(of)})" for name, of in streams.items())
    raise UserError(f"predict: {place}: say with --stream which stream it is for; the bundle has {every}")


def _folder(path: Path, stream: str) -> Iterator[Item]:
    files = picture_files(path)
    if not files:
        raise UserError(f"predict: {path}: holds no {', '.join(PICTURES)} files")
    return _pictures(files, stream)


def _pictures(files: list[Path], stream: str) -> Iterator[Item]:
    for file in files:
        yield Item(str(file), stream, read_picture(file))


def _film(path: Path, stream: str) -> Iterator[Item]:
    capture = open_film(str(path), f"predict: {path}")
    try:
        hertz, frame = capture.get(cv2.CAP_PROP_FPS), 0
        while (read := capture.read())[0]:
            frame, image = frame + 1, read[1]
            # A row of bytes is a frame of Motion JPEG as it came.
            content = image.tobytes() if image.ndim == 2 and image.shape[0] == 1 else image
            yield Item(f"{path}#{frame}", stream, content, hertz)
    finally:
        capture.release()


def _table(path: Path, stream: str, spec: StreamSpec) -> Iterator[Item]:
    assert isinstance(spec, SensorStream)
    names = [channel.name for channel in spec.channels]
    found = False
    for row in _rows(path):
        columns = {name: column_named(name, row.cells) for name in names}
        found = found or any(columns.values())
        if not found and not row.problem:
            raise UserError(f"predict: {path}: no column is a channel of {stream!r} ({', '.join(names)})")
        cells = {name: row.cells[column] for name, column in columns.items() if column is not None}
        given = {name: number(cell) for name, cell in cells.items() if not is_missing(cell)}
        bad = next((name for name, value in given.items() if value is None), None)
        problem = row.problem or (f"{bad!r} is {cells[bad]!r:.80}, which is no number" if bad is not None else "")
        content: object = Refusal("malformed", problem) if problem else given
        yield Item(f"{path}#{row.line}", stream, content)


def _rows(path: Path) -> Iterator[Any]:
    try:
        yield from read_rows(path)
    except (OSError, ValueError) as error:
        raise UserError(f"predict: {path}: {getattr(error, 'strerror', None) or error}") from None


def _lines(path: Path, stream: str) -> Iterator[Item]:
    try:
        for line, text in lines_of(path):
            if text.strip():
                yield Item(f"{path}#{line}", stream, text.strip())
    except OSError as error:
        raise UserError(f"predict: {path}: cannot be read ({error.strerror})") from None
