"""Aligned messages to named tensors that meet the bundle's specs.

Pure: the same slice gives the same tensors, on the device, in calibration and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.messages import Sample, Tensor, words_of
from edge_runtime.pixels import pixels
from edge_runtime.specs import NS_PER_MS, CameraStream, SensorStream, TextStream, max_age_ns
from edge_runtime.tokenizer import Tokenizer


def image_tensor(spec: CameraStream, picture: bytes | memoryview | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`picture` (a JPEG's bytes, or [h, w, 3] uint8 BGR) as [1, height, width, 3] uint8. Raises PictureError."""
    return pixels(spec, picture)[None]


def word_grid(spec: TextStream, encoded: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """ids and mask [W, P] of a sentence's words, each given as its piece ids: a row per word, 0 beyond its end.

    Words beyond the stream's `max_tokens` and pieces beyond its `word_pieces` are cut off.
    """
    ids = np.zeros((spec.max_tokens, spec.word_pieces), np.int32)
    mask = np.zeros((spec.max_tokens, spec.word_pieces), np.float32)
    for row, pieces in enumerate(encoded[: spec.max_tokens]):
        cut = pieces[: spec.word_pieces]
        ids[row, : len(cut)] = cut
        mask[row, : len(cut)] = 1.0
    return ids, mask


def text_tensors(spec: TextStream, tokenizer: Tokenizer, text: str) -> dict[str, Tensor]:
    """`ids` int32 [1, L], `mask` float32 [1, L] (1 = a piece) and `types` int32 [1, L] (sentence numbers); longer text
    is cut off, shorter padded, as the tokenizer does it.

    With `word_pieces` all are [1, W, P], a row per word, 0 beyond the end.
    """
    if spec.word_pieces:
        ids, mask = word_grid(spec, tokenizer.encode_words(words_of(text)[: spec.max_tokens]))
        return {"ids": ids[None], "mask": mask[None], "types": np.zeros_like(ids)[None]}
    pieces = tokenizer.lay_out(text, spec.max_tokens)
    return {
        "ids": np.array([pieces.ids], np.int32),
        "mask": np.array([pieces.mask], np.float32),
        "types": np.array([pieces.types], np.int32),
    }


def window_tensors(spec: SensorStream, samples: tuple[Sample, ...]) -> dict[str, Tensor]:
    """`window` float32 [1, T, C], standardised, 0 where missing (raw values where mean is 0 and deviation 1);
    `mask` float32 [1, T, C], 1 = measured.

    The window ends at the newest sample, in steps of `step_ms`; each step holds every channel's last value that is
    not older than the stream's maximum age (zero-order hold).
    """
    steps, count = spec.window, len(spec.channels)
    column = {channel.name: index for index, channel in enumerate(spec.channels)}
    end_ns, step_ns = samples[-1].captured_ns, int(spec.step_ms * NS_PER_MS)
    latest = np.full((steps + 1, count), np.nan)
    stamp = np.full((steps + 1, count), -np.inf)
    for sample in samples:
        # Row 0 gathers what came before the window; a sample is first seen by the step at or after it.
        row = max(0, steps - (end_ns - sample.captured_ns) // step_ns)
        for name, value in sample.values.items():
            latest[row, column[name]] = value
            stamp[row, column[name]] = sample.captured_ns - end_ns
    step_time = (np.arange(steps + 1) - steps)[:, None] * float(step_ns)
    last = np.maximum.accumulate(np.where(np.isnan(latest), 0, np.arange(steps + 1)[:, None]), axis=0)
    latest, stamp = np.take_along_axis(latest, last, axis=0)[1:], np.take_along_axis(stamp, last, axis=0)[1:]
    measured = step_time[1:] - stamp <= max_age_ns(spec)
    mean = np.array([channel.mean for channel in spec.channels])
    std = np.array([channel.std for channel in spec.channels])
    scaled = (latest - mean) / std
    if spec.clip:
        scaled = np.clip(scaled, -spec.clip, spec.clip)
    return {
        "window": np.where(measured, scaled, 0.0).astype(np.float32)[None],
        "mask": measured.astype(np.float32)[None],
    }
