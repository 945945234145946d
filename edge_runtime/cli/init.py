"""`edge-runtime init`: a configuration from five questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.errors import ConfigError
from edge_runtime.log_handler import one_line

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.cli.host import Host
    from edge_runtime.streams import StreamSpec

INPUTS = "tcp://127.0.0.1:5561"
DECISIONS = "tcp://127.0.0.1:5560"
BUNDLE = "shipped:home"
ELSEWHERE, NOBODY = "zmq", "none"
"""Answers: other programs send it; nobody does."""
URLS = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://")


@click.command()
@click.argument("file", metavar="[CONFIG]", default="edge.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--bundle", help=f"Folder of a bundle, or shipped:NAME.  [asked; {BUNDLE}]")
@click.option("--camera", help="A device (0, /dev/video2), URL, film or folder of pictures; zmq; none.  [asked]")
@click.option("--sensors", help="A table (.csv, .jsonl); zmq; none.  [asked]")
@click.option("--text", help="stdin; a .jsonl file; zmq; none.  [asked]")
@click.option("--publish", help=f"Where decisions are published.  [asked; {DECISIONS}]")
@click.option("--allow-unsigned", is_flag=True, help="Run a bundle of your own that is not signed.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the answers that would be proposed.")
def init(
    file: Path,
    bundle: str | None,
    camera: str | None,
    sensors: str | None,
    text: str | None,
    publish: str | None,
    allow_unsigned: bool,
    yes: bool,
) -> int:
    """Write a commented configuration to CONFIG (edge.toml), and run `doctor` on it.

    Asks what decides, where camera, sensors and sentences come from and where decisions go, and proposes what is
    plugged in. Each question has an option that answers it; nothing is overwritten.
    """
    from edge_runtime.cli.doctor import report
    from edge_runtime.cli.host import Host

    if file.exists():
        raise ConfigError(f"init: {file} is there already; name another one, or remove it")
    ask = _Asker(yes)
    name = ask("What decides (a bundle's folder, or shipped:NAME)", bundle, BUNDLE)
    opened = _open(name, allow_unsigned)
    places = _places(opened.manifest.streams, {"camera": camera, "sensors": sensors, "text": text}, ask, Host())
    where = ask("Where are decisions published", publish, DECISIONS)
    content = written(file.stem, name, opened, places, where)
    try:
        file.write_text(content, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise ConfigError(f"init: {file} cannot be written ({getattr(error, 'strerror', None) or error})") from None
    click.echo(f"{file} is written; run it: edge-runtime run {file}")
    return report(file)


@dataclass(frozen=True)
class _Asker:
    """Puts a question, unless it is answered already."""

    silent: bool

    def __call__(self, question: str, given: str | None, proposed: str) -> str:
        if given is not None:
            return given
        if self.silent:
            return proposed
        answer: str = click.prompt(question, default=proposed, err=True)
        return answer.strip()


def _open(name: str, allow_unsigned: bool) -> Bundle:
    """Raises UserError for a bundle that cannot be run as things are."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import PREFIX, bundle_path
    from edge_runtime.signing_keys import trusted

    return open_bundle(bundle_path(name), trusted(()), allow_unsigned or name.startswith(PREFIX))


def _places(
    streams: Mapping[str, StreamSpec], given: Mapping[str, str | None], ask: _Asker, host: Host
) -> dict[str, str]:
    """Where each stream comes from. Raises ConfigError for an answer that fits no source."""
    from edge_runtime.streams import kind

    questions = {
        "camera": "a device (0, /dev/video2), URL, film, folder of pictures, zmq (another program sends it) or none",
        "sensors": "a table (.csv, .jsonl), zmq (another program sends them) or none",
        "text": "stdin (a line each), a .jsonl file, zmq (another program sends them) or none",
    }
    devices = [f"/{device.relative_to(host.root)}" for device in host.files("dev/video*") if host.may_use(device)]
    found = {}
    for name, spec in streams.items():
        what = kind(spec)
        if what not in questions:
            found[name] = ELSEWHERE
            continue
        proposed = devices.pop(0) if what == "camera" and devices else ELSEWHERE
        found[name] = ask(f"Where does {name!r} come from: {questions[what]}", given[what], proposed)
        source_rows(name, what, found[name])
    return found


def source_rows(stream: str, kind: str, place: str) -> list[str]:
    """The lines that have `stream`, a stream of this kind, come from `place`; empty where none are needed. Raises
    ConfigError.
    """
    from edge_runtime.capture.film import FILMS
    from edge_runtime.capture.tables import TABLES

    if place in (ELSEWHERE, NOBODY):
        return []
    path = Path(place)
    source: dict[str, str | int | bool]
    if kind == "camera" and (place.isdecimal() or place.startswith(("/dev/", *URLS))):
        source = {"kind": "camera", "device": int(place) if place.isdecimal() else place}
    elif kind == "camera" and path.is_dir():
        source = {"kind": "images", "path": str(path.absolute()), "loop": True}
    elif kind == "camera" and path.is_file() and path.suffix.lower() in FILMS:
        source = {"kind": "video", "path": str(path.absolute()), "loop": True}
    elif kind != "camera" and path.is_file() and path.suffix.lower() in TABLES:
        source = {"kind": "file", "path": str(path.absolute())}
    elif kind == "text" and place == "stdin":
        source = {"kind": "stdin"}
    else:
        raise ConfigError(f"init: {place!r} is nothing that {stream!r} ({kind}) can come from; see --help")
    row = {"kind": source.pop("kind"), "stream": stream, **source}
    return ["[[source]]", *(f"{key} = {_value(value)}" for key, value in row.items()), ""]


def written(name: str, bundle_name: str, bundle: Bundle, places: Mapping[str, str], publish: str) -> str:
    """The configuration as text."""
    from edge_runtime.streams import kind

    manifest = bundle.manifest
    kinds = {stream: kind(spec) for stream, spec in manifest.streams.items()}
    what = one_line(f"{manifest.name} {manifest.version}: {manifest.description}")
    lines = [
        "# Written by edge-runtime init. Every key: docs/configuration.md. Is all well? edge-runtime doctor FILE",
        f"name = {_quoted(name)}    # decisions come under the topic decision.NAME",
        f"bundle = {_quoted(bundle_name)}    # {what}",
    ]
    if bundle.signed_by is None:
        lines.append(
            "allow_unsigned = true    # it is not signed; trusted_keys = [...] and no such line take signed ones only"
        )
    lines += ["", "[[sink]]", 'kind = "zmq"', f"bind = {_quoted(publish)}", ""]
    for stream, place in places.items():
        if place == NOBODY:
            need = (
                "required: without it only the safe decision is said"
                if manifest.streams[stream].required
                else "optional"
            )
            lines += [f"# {stream} ({kinds[stream]}, {need}) has no source.", ""]
        lines += source_rows(stream, kinds[stream], place)
    elsewhere = [stream for stream, place in places.items() if place == ELSEWHERE]
    if elsewhere:
        lines += [f"# Other programs of this host send {', '.join(elsewhere)}: docs/messages.md says how."]
        lines += ["[[source]]", 'kind = "zmq"', f"bind = {_quoted(INPUTS)}", ""]
    spoken = [stream for stream in elsewhere if kinds[stream] == "text"]
    for stream in spoken:
        lines += ["# Sentences command something: their senders must say when they were spoken (`captured_ns`)."]
        lines += [f"[stream.{_quoted(stream)}]", 'stamp = "required"', ""]
    return "\n".join(lines).rstrip() + "\n"


def _value(value: str | int | bool) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """As TOML's basic string: JSON's, but for one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
