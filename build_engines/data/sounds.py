"""`python -m build_engines.data.sounds FOLDER`: makes sounds of a house, as data for the recipe `sounds`.

Sirens, knocks, claps, a voice (noise shaped by moving formants: it babbles, and says nothing), and rooms where none of
them is heard. Every room has its own hum, hiss and echo; a room is in one split only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.wav import write_wav

Signal = NDArray[np.float64]
Rng = np.random.Generator
LENGTH = SAMPLE_RATE
"""Samples of a sound: one second."""
_T = np.arange(LENGTH) / SAMPLE_RATE


def siren(rng: Rng) -> Signal:
    """A tone that swings between two pitches, with harmonics."""
    low, swing, rate = rng.uniform(400, 800), rng.uniform(200, 700), rng.uniform(0.7, 4.0)
    wave_ = np.sin(2 * np.pi * (rate * _T + rng.random()))
    pitch = low + swing * (0.5 + 0.5 * (np.sign(wave_) if rng.random() < 0.4 else wave_))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    return sum((rng.uniform(0.2, 0.6) ** order * np.sin((order + 1) * phase) for order in range(3)), np.zeros(LENGTH))


def knock(rng: Rng) -> Signal:
    """Two to four dull blows: a low tone that dies away within some hundredths of a second."""
    tone, decay = rng.uniform(90, 260), rng.uniform(0.015, 0.04)
    return _blows(rng, int(rng.integers(2, 5)), lambda: np.sin(2 * np.pi * tone * _T) * np.exp(-_T / decay))


def clap(rng: Rng) -> Signal:
    """One to three claps: a burst of noise between 800 and 4000 Hz."""
    decay = rng.uniform(0.01, 0.03)
    return _blows(rng, int(rng.integers(1, 4)), lambda: _band(rng, 800, 4000) * np.exp(-_T / decay))


def voice(rng: Rng) -> Signal:
    """Syllables: a pulse train or breath through two resonances that move from vowel to vowel."""
    sound, at = np.zeros(LENGTH), 0
    pitch = rng.uniform(90, 240)
    while at < LENGTH:
        count = min(LENGTH - at, int(SAMPLE_RATE * rng.uniform(0.12, 0.3)))
        glide = pitch * np.linspace(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), count)
        phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE
        first, second = rng.uniform(300, 800), rng.uniform(1000, 2500)
        syllable = np.zeros(count)
        for order in range(1, 25):
            near = sum(np.exp(-(((order * pitch - centre) / 200) ** 2)) for centre in (first, second))
            syllable += (near + 0.02) * np.sin(order * phase + rng.uniform(0, 2 * np.pi))
        sound[at : at + count] = syllable * np.hanning(count)
        at += count + int(SAMPLE_RATE * rng.uniform(0.0, 0.08))
    return sound


def nothing(rng: Rng) -> Signal:
    """The room alone."""
    return np.zeros(LENGTH)


SOUNDS: dict[str, Callable[[Rng], Signal]] = {
    "none": nothing,
    "siren": siren,
    "knock": knock,
    "clap": clap,
    "voice": voice,
}


def _blows(rng: Rng, count: int, blow: Callable[[], Signal]) -> Signal:
    sound, gap = np.zeros(LENGTH), rng.uniform(0.12, 0.25)
    start = rng.uniform(0.02, 0.95 - gap * (count - 1))
    for number in range(count):
        at = int((start + gap * number * rng.uniform(0.9, 1.1)) * SAMPLE_RATE)
        if at < LENGTH:
            sound[at:] += rng.uniform(0.6, 1.0) * blow()[: LENGTH - at]
    return sound


def _band(rng: Rng, low: float, high: float) -> Signal:
    """Noise between `low` and `high` Hz, of deviation 1."""
    spectrum = np.fft.rfft(rng.normal(size=LENGTH))
    hertz = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)
    spectrum[(hertz < low) | (hertz > high)] = 0
    sound: Signal = np.fft.irfft(spectrum, LENGTH)
    sound /= sound.std()
    return sound


class Room:
    """What is always heard in a room, and how it echoes."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._mains = float(rng.choice([50.0, 60.0])) * rng.uniform(0.998, 1.002)
        self._hum, self._hiss = 10 ** rng.uniform(-4, -2), 10 ** rng.uniform(-4, -2.3)
        tail = np.exp(-np.arange(SAMPLE_RATE // 4) / (SAMPLE_RATE * rng.uniform(0.02, 0.08)))
        self._echo = rng.normal(size=len(tail)) * tail * rng.uniform(0.0, 0.08)
        self._echo[0] = 1.0

    def hear(self, sound: Signal) -> NDArray[np.int16]:
        """`sound` from somewhere in the room, near or far, as 16-bit PCM [LENGTH]."""
        rng = self._rng
        size = 2 * LENGTH
        echoed = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(self._echo, size), size)[:LENGTH]
        loud = 10 ** rng.uniform(-1.1, -0.2) / max(1e-9, float(np.abs(echoed).max()))
        hum = sum(np.sin(2 * np.pi * self._mains * order * _T + rng.uniform(0, 6.3)) / order for order in (1, 2, 3, 5))
        whole = (loud if sound.any() else 0.0) * echoed + self._hum * hum + self._hiss * rng.normal(size=LENGTH)
        return np.round(np.clip(whole, -1, 32767 / 32768) * 32768).astype(np.int16)


def make(folder: Path, split: str, rooms: int, seed: int) -> None:
    """`folder`/`split`: every sound twice in each of `rooms` rooms, as WAV files and samples.jsonl."""
    (folder / split / "sounds").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(rooms):
        rng = np.random.default_rng([seed, number])
        room = Room(rng)
        for label, source in SOUNDS.items():
            for take in range(2):
                name = f"{split}/sounds/{number:03d}-{label}-{take}.wav"
                write_wav(folder / name, room.hear(source(rng)))
                rows.append({"id": Path(name).stem, "room": f"{split} {number}", "label": label, "audio": name})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / split / "samples.jsonl").write_text(lines, encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--rooms", default=60, show_default=True, type=click.IntRange(min=4), help="Rooms to train in.")
@click.option("--seed", default=1, show_default=True, help="Other seeds make other sounds.")
def main(folder: Path, rooms: int, seed: int) -> None:
    """Make FOLDER/train and FOLDER/val: ten sounds of a second in each room, half as many rooms in val."""
    make(folder, "train", rooms, 2 * seed)
    make(folder, "val", max(2, rooms // 2), 2 * seed + 1)
    click.echo(f"{folder}: {10 * rooms} sounds to train with, {10 * max(2, rooms // 2)} to evaluate")


if __name__ == "__main__":
    main()
