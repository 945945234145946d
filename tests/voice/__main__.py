"""The table of tests.voice.table, for every speaker of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
import numpy as np

from edge_runtime.voice.pack import open_pack
from tests.voice.speakers import FOLDER, PACK, available
from tests.voice.table import Cell, Listening, cell

NOISES: tuple[float | None, ...] = (None, 10.0)


@click.command()
@click.option("--some", type=int, help="Of each grammar, this many commands only.")
@click.option("--noise", "noises", multiple=True, type=float, help="dB, in place of clean and 10.")
@click.option("--json", "out", type=click.Path(path_type=Path), default=FOLDER / "table.json", show_default=True)
def table(some: int | None, noises: tuple[float, ...], out: Path) -> None:
    """How well each speaker is heard."""
    speakers = available()
    if not speakers:
        sys.exit("no speaker is installed: apt-get install espeak-ng flite")
    listening = Listening(open_pack(PACK))
    cells: list[Cell] = []
    for snr_db in noises or NOISES:
        for speaker in speakers:
            cells.append(cell(listening, speaker, snr_db, some))
            click.echo(row(cells[-1]))
    for one in cells:
        for said, heard in (*one.mistakes, *one.foreign_taken):
            click.echo(f"{one.speaker} {noise(one)}: {said!r} was heard as {heard!r}")
    for snr_db in noises or NOISES:
        click.echo(total([one for one in cells if one.snr_db == snr_db]))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(cells), indent=1))


def noise(one: Cell) -> str:
    return "clean" if one.snr_db is None else f"{one.snr_db:g} dB"


def row(one: Cell) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(one.refused.items())) or "none"
    delays = f"{np.median(one.delays_ms):.0f} / {max(one.delays_ms):.0f} ms" if one.delays_ms else "-"
    parts = (
        one.speaker,
        noise(one),
        f"{one.right} of {one.said}",
        one.wrong,
        f"{reasons}; unnoticed {one.silent}",
        len(one.confused),
        f"{len(one.foreign_taken)} of {one.foreign}",
        delays,
        f"{one.cpu_s / one.sound_s:.3f}",
    )
    return f"| {' | '.join(map(str, parts))} |"


def total(cells: list[Cell]) -> str:
    right, said = sum(one.right for one in cells), sum(one.said for one in cells)
    foreign, taken = sum(one.foreign for one in cells), sum(len(one.foreign_taken) for one in cells)
    confused = sum(len(one.confused) for one in cells)
    delays = [delay for one in cells for delay in one.delays_ms]
    return (
        f"{noise(cells[0])}: {right / said:.1%} right of {said}, {confused} confused, {taken} of {foreign} foreign, "
        f"delay p50 {np.median(delays):.0f} ms, p99 {np.percentile(delays, 99):.0f} ms"
    )


if __name__ == "__main__":
    table()
