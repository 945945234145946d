"""Sound: a window of log-mel frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from build_engines.modalities.audio.faults import sound_faults
from build_engines.modalities.audio.recipe import AudioRecipe
from build_engines.modalities.faults import Fault
from build_engines.modalities.modality import Input, Modality, SampleRow
from build_engines.modalities.thinned import Thinned
from calibration.moments import RawMessage
from edge_runtime.admit import Refusal
from edge_runtime.errors import UserError
from edge_runtime.kinds.audio import SAMPLE_RATE, AudioStream, log_mel, mel_filters, samples_of
from edge_runtime.wav import WavError, read_wav

if TYPE_CHECKING:
    from torch import nn

CHUNK = SAMPLE_RATE // 10
"""Samples in a chunk."""


class Audio(Modality[AudioRecipe, AudioStream]):
    """In a row: `audio`, a WAV file."""

    spec = AudioStream
    recipe = AudioRecipe
    field = "audio"
    inputs = {  # noqa: RUF012  # never changed
        "frames": Input("NTM log-mel standardised, 0 where not heard", "frames"),
        "mask": Input("NT1 1 = heard", "audio_mask"),
    }

    def network(self, recipe: AudioRecipe, spec: AudioStream, vocabulary: int, features: int) -> nn.Module:
        from build_engines.modalities.audio.network import AudioEncoder

        return AudioEncoder(recipe, features)

    def messages(self, name: str, spec: AudioStream, row: SampleRow) -> Iterator[RawMessage]:
        if file := row.fields.file(row.field):
            yield from wav_messages(name, row.path(file), row.at_ns)

    def fitted(self, spec: AudioStream, messages: Iterable[RawMessage]) -> AudioStream:
        return fit_sound(spec, messages)

    def faults(self, name: str, spec: AudioStream, tagged: bool) -> dict[str, Fault]:
        return sound_faults(name)


def wav_messages(stream: str, path: Path, end_ns: int) -> Iterator[RawMessage]:
    """The file's sound in chunks of 100 ms, the last of which was captured at `end_ns`. Raises UserError."""
    try:
        pcm = read_wav(path)
    except WavError as error:
        raise UserError(f"data {path}: {error}") from None
    first = len(pcm) % CHUNK or CHUNK
    for end in range(first, len(pcm) + 1, CHUNK):
        behind_ns = (len(pcm) - end) * 1_000_000_000 // SAMPLE_RATE
        yield RawMessage(stream, end_ns - behind_ns, pcm[max(0, end - CHUNK) : end])


def fit_sound(spec: AudioStream, messages: Iterable[RawMessage]) -> AudioStream:
    """`spec` with the mean and deviation of the log-mel values of `messages`. Raises UserError where there are none."""
    filters = mel_filters(spec.mels)
    values = Thinned()
    for message in messages:
        pcm = samples_of(message.content)
        if not isinstance(pcm, Refusal) and len(pcm) >= 400:
            values.put(log_mel(pcm, filters))
    every = values.values()
    if not every.size:
        raise UserError("data: the training split has no sound; leave the audio stream out of the recipe")
    mean, std = round(float(every.mean()), 6), round(float(every.std()) or 1.0, 6)
    return msgspec.structs.replace(spec, mean=mean, std=std)
