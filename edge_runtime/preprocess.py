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


LETTERS = 16
"""Characters of a word that `word_row` gives; of a longer word, half of them from its beginning and half from its end.
"""
LATIN = 0x250
"""Characters below this code point (Latin with all its marks) are told apart; others only by what they are."""
LETTER_KINDS = LATIN + 5


def word_row(spec: TextStream, tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, Tensor]:
    """A sentence's words as one row of L = `sentence_pieces` pieces, W = `max_tokens` words at most:

    `ids`, `mask` (float32, 1 = a piece or a mark), `types` (0) and `words` (the number of the word that a piece belongs
    to, from 1; 0 = a mark or padding) [L]; `starts` [W], the place of each word's first piece, 0 = no word; `letters`
    [W, LETTERS], the `letter` of each character of a word as it is written, 0 beyond its end. int32.

    Words beyond W and pieces beyond `word_pieces` are cut off. Where the rest does not fit, the words of most pieces
    lose their last ones, so that every word keeps its first.
    """
    before, after = tokenizer.marks
    room = max(0, spec.sentence_pieces - len(before) - len(after))
    read = words[: min(spec.max_tokens, room)]
    encoded = tokenizer.encode_words(read)
    longest = _fitting([len(pieces) for pieces in encoded], spec.word_pieces, room)
    ids, number = [*before], [0] * len(before)
    starts = np.zeros(spec.max_tokens, np.int32)
    letters = np.zeros((spec.max_tokens, LETTERS), np.int32)
    for index, (word, pieces) in enumerate(zip(read, encoded, strict=True)):
        starts[index] = len(ids)
        ids += pieces[:longest]
        number += [index + 1] * len(pieces[:longest])
        shown = word if len(word) <= LETTERS else word[: LETTERS // 2] + word[-LETTERS // 2 :]
        letters[index, : len(shown)] = [letter(char) for char in shown]
    ids += after
    row = np.zeros((4, spec.sentence_pieces), np.int32)
    row[0, : len(ids)], row[1, : len(ids)], row[3, : len(number)] = ids, 1, number
    mask = row[1].astype(np.float32)
    return {"ids": row[0], "mask": mask, "types": row[2], "words": row[3], "starts": starts, "letters": letters}


def letter(char: str) -> int:
    """1 to LETTER_KINDS - 1: the code point of Latin characters; then capitals, small letters, digits, other letters,
    and whatever else there is."""
    code = ord(char)
    if code < LATIN:
        return code
    kinds = (char.isupper(), char.islower(), char.isdigit(), char.isalpha(), True)
    return LATIN + kinds.index(True)


def _fitting(lengths: Sequence[int], longest: int, room: int) -> int:
    """The largest number of pieces, at most `longest`, that each word may keep so that all fit into `room`."""
    while longest > 1 and sum(min(length, longest) for length in lengths) > room:
        longest -= 1
    return longest


def text_tensors(spec: TextStream, tokenizer: Tokenizer, text: str) -> dict[str, Tensor]:
    """`ids` int32 [1, L], `mask` float32 [1, L] (1 = a piece) and `types` int32 [1, L] (sentence numbers); longer text
    is cut off, shorter padded, as the tokenizer does it.

    With `word_pieces` all are [1, W, P], a row per word, 0 beyond the end; with `sentence_pieces` those of `word_row`.
    """
    if spec.sentence_pieces:
        row = word_row(spec, tokenizer, words_of(text))
        return {name: tensor[None] for name, tensor in row.items()}
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
