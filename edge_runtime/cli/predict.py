"""`edge-runtime predict`: one decision on given inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.errors import UserError

if TYPE_CHECKING:
    from edge_runtime.pipeline import Pipeline


@click.command()
@click.argument("name", metavar="BUNDLE")
@click.option(
    "--image", "images", multiple=True, metavar="STREAM=FILE", help="JPEG, PNG, BMP or WebP; may be repeated."
)
@click.option("--values", multiple=True, metavar="STREAM:CHANNEL=VALUE", help="In the channel's unit; may be repeated.")
@click.option("--text", "texts", multiple=True, metavar="[STREAM=]SENTENCE", help="STREAM if there are several.")
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Trusted public key; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature.")
def predict(
    name: str,
    images: tuple[str, ...],
    values: tuple[str, ...],
    texts: tuple[str, ...],
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Decide once with BUNDLE on these inputs alone, and print the decision as JSON.

    The inputs are admitted as a running service admits them, and the fields are those of its decisions.
    """
    import msgspec

    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.decision_fields import prediction
    from edge_runtime.pipeline import Pipeline
    from edge_runtime.signing_keys import trusted

    pipeline = Pipeline(open_bundle(bundle_path(name), trusted(keys), allow_unsigned))
    try:
        inputs = [_image(item) for item in images]
        inputs += _values(values).items()
        inputs += [_text(pipeline, item) for item in texts]
        streams = [stream for stream, _ in inputs]
        for stream in streams:
            if streams.count(stream) > 1:
                raise UserError(f"predict: stream {stream!r} is given twice; a decision is on one message of each")
        outcome = pipeline.predict(dict(inputs))
        click.echo(msgspec.json.encode(prediction(pipeline, outcome)))
    finally:
        pipeline.close()


def _image(item: str) -> tuple[str, object]:
    """The stream, and the JPEG as it is; other formats decoded."""
    from edge_runtime.admit import MAX_JPEG_BYTES, Refusal, decode_picture
    from edge_runtime.plain_file import read_plain

    stream, equals, file = item.partition("=")
    if not equals:
        raise UserError(f"predict: --image {item!r}: expected STREAM=FILE, e.g. camera.front=street.jpg")
    try:
        data = read_plain(Path(file), MAX_JPEG_BYTES)
    except OSError as error:
        raise UserError(f"predict: --image {file}: cannot be read ({error.strerror})") from None
    if data[:2] == b"\xff\xd8":
        return stream, data
    picture = decode_picture(data)
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
