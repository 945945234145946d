"""What befalls sound: noise, a gain too high, a dead microphone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from build_engines.modalities.faults import Change, Fault, each_message
from calibration.moments import RawMessage
from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import samples_of


def sound_faults(name: str) -> dict[str, Fault]:
    """Faults of the sound stream `name`."""
    sounds = {"noisy": _hiss, "clipped": _clipped, "muted": _muted}
    return {fault: each_message(name, partial(_sound, function)) for fault, function in sounds.items()}


def _sound(function: Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]) -> Change:
    """A change of a chunk's samples, given and taken as parts of full scale."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        pcm = samples_of(raw.content)
        if isinstance(pcm, Refusal):
            return raw
        values = np.clip(function(pcm / 32768.0, rng), -1.0, 32767 / 32768)
        return replace(raw, held=np.round(values * 32768.0).astype(np.int16))

    return change


def _hiss(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise as loud as the chunk itself: a signal-to-noise ratio of 0 dB."""
    return sound + rng.normal(0.0, max(1e-4, float(np.sqrt(np.mean(sound**2)))), sound.shape)


def _clipped(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A gain ten times too high."""
    return 10.0 * sound


def _muted(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros_like(sound)
