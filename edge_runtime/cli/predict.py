"""`edge-runtime predict`: one decision on given inputs, or one on each thing in a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from edge_runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.cli.items import Item
    from edge_runtime.decision_fields import Prediction
    from edge_runtime.pipeline import Pipeline

SHOWN = 8
"""Things of one picture that a line names."""


@click.command()
@click.argument("name", metavar="BUNDLE")
@click.argument("places", metavar="[SOURCE]...", nargs=-1)
@click.option("--stream", metavar="STREAM", help="What SOURCE is for, where the bundle has several of its kind.")
@click.option(
    "--image", "images", multiple=True, metavar="STREAM=FILE", help="JPEG, PNG, BMP or WebP; may be repeated."
)
@click.option("--values", multiple=True, metavar="STREAM:CHANNEL=VALUE", help="In the channel's unit; may be repeated.")
@click.option("--text", "texts", multiple=True, metavar="[STREAM=]SENTENCE", help="STREAM if there are several.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write each decision there, as JSON Lines."
)
@click.option(
    "--draw",
    "drawn",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each picture there, decision drawn.",
)
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Trusted public key; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature.")
def predict(
    name: str,
    places: tuple[str, ...],
    stream: str | None,
    images: tuple[str, ...],
    values: tuple[str, ...],
    texts: tuple[str, ...],
    out: Path | None,
    drawn: Path | None,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Decide with BUNDLE on the inputs that the options give, and print the decision as JSON; or once for each thing
    that each SOURCE holds, together with those inputs, a line each.

    SOURCE: a picture, a folder of pictures, a video, a table (.csv, .jsonl) with a column per channel, a .txt with a
    sentence a line, or a sentence. Each thing is decided on by itself, whatever came before it; for what goes on over
    time there are `run` and `record`. Inputs are admitted as a running service admits them, and the fields are those
    of its decisions. Exit code 2 if anything was refused.
    """
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.pipeline import Pipeline
    from edge_runtime.signing_keys import trusted

    if (out or drawn or stream) and not places:
        raise UserError("predict: --out, --draw and --stream are for a SOURCE: a picture, a folder, a video, a table")
    pipeline = Pipeline(open_bundle(bundle_path(name), trusted(keys), allow_unsigned))
    try:
        given = _given(pipeline, images, values, texts)
        if places:
            _each(pipeline, given, places, stream, out, drawn)
        else:
            _once(pipeline, given)
    finally:
        pipeline.close()


def _given(
    pipeline: Pipeline, images: tuple[str, ...], values: tuple[str, ...], texts: tuple[str, ...]
) -> dict[str, object]:
    inputs = [_image(item) for item in images]
    inputs += _values(values).items()
    inputs += [_text(pipeline, item) for item in texts]
    streams = [stream for stream, _ in inputs]
    for stream in streams:
        if streams.count(stream) > 1:
            raise UserError(f"predict: stream {stream!r} is given twice; a decision is on one message of each")
    return dict(inputs)


def _once(pipeline: Pipeline, given: dict[str, object]) -> None:
    import msgspec

    from edge_runtime.decision_fields import prediction

    click.echo(msgspec.json.encode(prediction(pipeline, pipeline.predict(given))))


def _each(
    pipeline: Pipeline,
    given: dict[str, object],
    places: tuple[str, ...],
    stream: str | None,
    out: Path | None,
    drawn: Path | None,
) -> None:
    """Decide on each thing at each place. Raises UserError at the end if any was refused."""
    from contextlib import ExitStack, closing
    from itertools import chain

    import msgspec

    from edge_runtime.admit import Refusal
    from edge_runtime.cli.items import items_at
    from edge_runtime.decision_fields import prediction
    from edge_runtime.drawing import Gallery
    from edge_runtime.log_handler import one_line

    items = [items_at(place, pipeline.streams, stream) for place in places]
    decided = refused = 0
    with ExitStack() as stack:
        lines = None if out is None else stack.enter_context(_opened(out))
        gallery = None if drawn is None else stack.enter_context(closing(Gallery(drawn)))
        for item in chain.from_iterable(items):
            if item.stream in given:
                raise UserError(f"predict: {item.name}: stream {item.stream!r} is given by an option too")
            try:
                if isinstance(item.content, Refusal):
                    raise UserError(f"is refused: {item.content.reason} {item.content.detail}")
                said = prediction(pipeline, pipeline.predict({**given, item.stream: item.content}))
            except UserError as error:
                refused += 1
                click.echo(f"{one_line(item.name)}: {one_line(str(error))}", err=True)
                continue
            decided += 1
            click.echo(_line(item, said))
            if lines is not None:
                lines.write(msgspec.json.encode({"item": one_line(item.name), **msgspec.to_builtins(said)}) + b"\n")
            if gallery is not None and (picture := _picture(item)) is not None:
                gallery.add(item.name.rpartition("#")[0] if item.film_hz else item.name, picture, said, item.film_hz)
        if gallery is not None and decided and not gallery.count:
            raise UserError("predict: --draw: there is no picture in what was given; leave it out")
    if refused or not decided:
        raise UserError(f"predict: {refused} of {decided + refused} things were refused, {decided} decided on")


def _opened(out: Path) -> IO[bytes]:
    try:
        return out.open("wb")
    except OSError as error:
        raise UserError(f"predict: --out {out}: cannot be written ({error.strerror})") from None


def _line(item: Item, said: Prediction) -> str:
    """For a person to read."""
    from msgspec import UnsetType

    from edge_runtime.log_handler import one_line

    why = f" ({said.reason})" if said.reason else ""
    values = {} if isinstance(said.values, UnsetType) else said.values
    things = () if isinstance(said.detections, UnsetType) else said.detections
    extras = "".join(f" | {name} {value:.4g}" for name, value in values.items())
    extras += "".join(f" | {thing.label} {thing.score:.2f}" for thing in things[:SHOWN])
    more = f" | {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return f"{one_line(item.name)}  {said.label} {said.confidence:.2f} {said.source}{why}{extras}{more}"


def _picture(item: Item) -> NDArray[np.uint8] | None:
    """What a camera's item shows; None for what is no picture."""
    import numpy as np

    from edge_runtime.pictures import decode

    if isinstance(item.content, bytes):
        return decode(item.content)
    return item.content if isinstance(item.content, np.ndarray) else None


def _image(item: str) -> tuple[str, object]:
    """The stream, and the JPEG as it is; other formats decoded."""
    from edge_runtime.admit import Refusal
    from edge_runtime.capture.picture_files import read_picture

    stream, equals, file = item.partition("=")
    if not equals:
        raise UserError(f"predict: --image {item!r}: expected STREAM=FILE, e.g. camera.front=street.jpg")
    picture = read_picture(Path(file))
    if isinstance(picture, Refusal):
        raise UserError(f"predict: --image {file}: is refused: {picture.reason} {picture.detail}")
    return stream, picture


def _values(items: tuple[str, ...]) -> dict[str, object]:
    samples: dict[str, dict[str, float]] = {}
    for item in items:
        place, _, number = item.rpartition("=")
        stream, colon, channel = place.partition(":")
        try:
            value = float(number)
        except ValueError:
            colon = ""
        if not colon:
            raise UserError(f"predict: --values {item!r}: expected STREAM:CHANNEL=NUMBER, e.g. room:co2_ppm=415")
        samples.setdefault(stream, {})[channel] = value
    return dict(samples)


def _text(pipeline: Pipeline, item: str) -> tuple[str, object]:
    from edge_runtime.streams import TextStream, streams_of

    stream, equals, sentence = item.partition("=")
    streams = list(streams_of(pipeline.streams, TextStream))
    if equals and stream in streams:
        return stream, sentence
    if len(streams) != 1:
        raise UserError(f"predict: --text {item!r}: say which stream, as STREAM=SENTENCE; there are {streams}")
    return streams[0], item
