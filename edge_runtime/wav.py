"""WAV files of the one form that the runtime hears: 16 kHz, mono, 16-bit PCM."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from edge_runtime.kinds.audio import SAMPLE_RATE, Sound

_MEND = "convert it: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"


class WavError(ValueError):
    """Why a file cannot be heard, and what to do."""


def read_wav(path: Path) -> Sound:
    """The samples of the file, int16 [N], at least one. Raises WavError."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            if form != (1, 2, SAMPLE_RATE):
                channels, width, rate = form
                raise WavError(
                    f"has {channels} channels of {8 * width} bits at {rate} Hz, not mono, 16 bits, 16000 Hz; {_MEND}"
                )
            data = file.readframes(file.getnframes())
    except OSError as error:
        raise WavError(f"cannot be read ({error.strerror}); check the path") from None
    except (wave.Error, EOFError) as error:
        raise WavError(f"is no WAV file of PCM ({str(error) or 'it is cut short'}); {_MEND}") from None
    pcm = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16)
    if not len(pcm):
        raise WavError("holds no sound; check the file")
    return pcm


def write_wav(path: Path, sound: Sound) -> None:
    """The samples, int16 [N], as such a file. Raises OSError."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(sound.astype("<i2").tobytes())
