"""Sounds for tests: hums that stand for speech, and a detector that takes them for it by their loudness."""

from __future__ import annotations

import numpy as np

from edge_runtime.kinds.audio import SAMPLE_RATE, Sound

LOUD = 0.02
"""Of full scale, squared: what is louder is a voice to `loudness`."""


def hum(seconds: float, amplitude: float = 0.5) -> Sound:
    at = np.arange(round(seconds * SAMPLE_RATE))
    return (amplitude * 32767 * np.sin(2 * np.pi * 300 * at / SAMPLE_RATE)).astype(np.int16)


def still(seconds: float, amplitude: float = 0.001, seed: int = 0) -> Sound:
    rng = np.random.default_rng(seed)
    return (amplitude * 32767 * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.int16)


def loudness(frame: bytes) -> float:
    power = float(np.mean((np.frombuffer(frame, np.int16) / 32768.0) ** 2))
    return 1.0 if power > LOUD else 0.0
