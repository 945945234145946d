"""Synthetic speakers for tests: espeak-ng, flite and Piper, where they are installed, at 16 kHz. `make voice` brings
what is missing, but for the Debian packages espeak-ng and flite."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.kinds.audio import SAMPLE_RATE, Sound

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("EDGE_RUNTIME_VOICE", ROOT / "build" / "voice"))
"""Made by `make voice`."""
PACK = FOLDER / "pack"
PIPER = FOLDER / "piper" / "bin" / "python"
"""An environment of its own: Piper's licence is the GPL."""
SAID = FOLDER / "said"
"""What was said before is kept there."""


class Speaker(NamedTuple):
    name: str
    program: str
    voice: str


SPEAKERS = (
    Speaker("espeak-ng en-us", "espeak-ng", "en-us"),
    Speaker("espeak-ng en-gb f", "espeak-ng", "en-gb+f3"),
    Speaker("flite slt", "flite", "slt"),
    Speaker("flite rms", "flite", "rms"),
    Speaker("flite awb", "flite", "awb"),
    Speaker("piper joe", "piper", "joe"),
)


def available() -> list[Speaker]:
    """Those of this machine."""
    return [one for one in SPEAKERS if (PIPER.is_file() if one.program == "piper" else shutil.which(one.program))]


def say(speaker: Speaker, sentences: Sequence[str]) -> list[Sound]:
    """What `speaker` says, int16 at 16 kHz, as loud as it is."""
    folder = SAID / speaker.name.replace(" ", "-")
    files = [folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.wav" for text in sentences]
    missing = {file: text for file, text in zip(files, sentences, strict=True) if not file.is_file()}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        speak = {"espeak-ng": _espeak, "flite": _flite, "piper": _piper}[speaker.program]
        for file, data in zip(missing, speak(speaker.voice, list(missing.values())), strict=True):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.rename(file)
    return [resampled(file.read_bytes()) for file in files]


def resampled(data: bytes) -> Sound:
    """The samples of a WAV file of one channel and 16 bits, at 16 kHz."""
    from scipy.signal import resample_poly

    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(file.getnframes()) or b"", "<i2").astype(np.float64)
    common = np.gcd(rate, SAMPLE_RATE)
    made = resample_poly(sound, SAMPLE_RATE // common, rate // common) if rate != SAMPLE_RATE else sound
    return np.clip(np.round(made), -32768, 32767).astype(np.int16)


def written(sound: Sound) -> bytes:
    """As a WAV file."""
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(sound.astype("<i2").tobytes())
    return whole.getvalue()


def in_a_room(speech: Sound, snr_db: float | None, seed: int, lead_s: float = 1.0, tail_s: float = 1.0) -> Sound:
    """`speech` at a usual loudness with silence around it, in white noise of a power that is `snr_db` below its own;
    None: hardly any."""
    rng = np.random.default_rng(seed)
    voice = speech / max(1.0, float(np.abs(speech).max())) * 0.3
    loud = voice[np.abs(voice) > 0.01]
    power = float(np.mean(loud**2)) if len(loud) else 1e-6
    sound = np.concatenate((np.zeros(round(lead_s * SAMPLE_RATE)), voice, np.zeros(round(tail_s * SAMPLE_RATE))))
    noise = np.sqrt(power / 10 ** (snr_db / 10)) if snr_db is not None else 1e-4
    mixed = sound + rng.standard_normal(len(sound)) * noise
    return np.clip(np.round(mixed * 32767), -32768, 32767).astype(np.int16)


def _espeak(voice: str, sentences: Sequence[str]) -> list[bytes]:
    line = ["espeak-ng", "-v", voice, "-s", "150", "--stdout"]
    said = [subprocess.run([*line, text], capture_output=True, check=True).stdout for text in sentences]
    return [_with_length(data) for data in said]


def _flite(voice: str, sentences: Sequence[str]) -> list[bytes]:
    made = []
    for text in sentences:
        file = SAID / f"flite-{os.getpid()}.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(file)], capture_output=True, check=True)
        made.append(file.read_bytes())
        file.unlink()
    return made


def _piper(voice: str, sentences: Sequence[str]) -> list[bytes]:
    """All at one go: its network takes seconds to load."""
    folder = SAID / f"piper-{os.getpid()}"
    folder.mkdir()
    line = [str(PIPER), str(Path(__file__).with_name("piper_speaks.py")), voice, str(folder)]
    try:
        subprocess.run(line, input="\n".join(sentences), text=True, check=True)
        return [(folder / f"{number}.wav").read_bytes() for number in range(len(sentences))]
    finally:
        shutil.rmtree(folder)


def _with_length(data: bytes) -> bytes:
    """A WAV whose header was written before its length was known."""
    size = len(data) - 44
    return data[:4] + (size + 36).to_bytes(4, "little") + data[8:40] + size.to_bytes(4, "little") + data[44:]
