"""Sound in data folders: chunks as a device gets them, and the stream fitted to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engines.modalities.audio import CHUNK, fit_sound, wav_messages
from calibration.moments import RawMessage
from edge_runtime.errors import UserError
from edge_runtime.kinds.audio import SAMPLE_RATE, Audio, AudioStream, Sound, joined, log_mel, mel_filters
from tests.kinds.test_audio import write_wav

SPEC = AudioStream(rate_hz=10, max_age_ms=500, window=48, mels=16)
END_NS = 10**10


def noise(samples: int, volume: float = 3000.0) -> Sound:
    return np.random.default_rng(0).normal(0, volume, samples).astype(np.int16)


@pytest.mark.parametrize("samples", [CHUNK, 3 * CHUNK, 3 * CHUNK + 70, 70])
def test_a_file_becomes_chunks_without_a_gap_that_end_at_the_moment(tmp_path: Path, samples: int) -> None:
    pcm = noise(samples)
    messages = list(wav_messages("mic", write_wav(tmp_path / "a.wav", pcm), END_NS))
    assert np.array_equal(np.concatenate([one.content for one in messages]), pcm)
    assert messages[-1].captured_ns == END_NS
    assert {len(one.content) for one in messages[1:]} <= {CHUNK}
    assert set(np.diff([one.captured_ns for one in messages])) <= {10**8}
    row = Audio()
    admit = row.admission(SPEC)
    chunks = [admit(one.content)("mic", n, one.captured_ns, None) for n, one in enumerate(messages)]  # type: ignore[operator]
    heard, known = joined(chunks, samples)
    assert known.all() and np.array_equal(heard, pcm)


def test_the_stream_is_fitted_to_the_log_mel_values() -> None:
    messages = [RawMessage("mic", END_NS, noise(SAMPLE_RATE, volume)) for volume in (100.0, 5000.0)]
    fitted = fit_sound(SPEC, messages)
    every = np.concatenate([log_mel(one.content, mel_filters(16)).ravel() for one in messages])
    assert fitted.mean == pytest.approx(every.mean(), abs=1e-6) and fitted.std == pytest.approx(every.std(), abs=1e-6)
    assert (fitted.window, fitted.mels) == (48, 16)


def test_no_sound_at_all_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sound; leave the audio stream out"):
        fit_sound(SPEC, [])
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="b.wav.*no WAV file"):
        list(wav_messages("mic", tmp_path / "b.wav", END_NS))
