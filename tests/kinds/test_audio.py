"""Sound: log-mel frames by a reference library, windows across gaps, admission, recording, WAV files."""

from __future__ import annotations

import wave
from pathlib import Path

import kaldi_native_fbank
import msgspec
import numpy as np
import pytest

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture import open_sources
from edge_runtime.capture.intake import Intake
from edge_runtime.clock import RealClock
from edge_runtime.errors import ConfigError
from edge_runtime.kinds.audio import (
    FRAME,
    MAX_CHUNK_BYTES,
    SAMPLE_RATE,
    Audio,
    AudioChunk,
    AudioStream,
    RawAudio,
    Sound,
    joined,
    log_mel,
    mel_filters,
)
from edge_runtime.kinds.record import wall_time
from edge_runtime.mailbox import Mailbox
from edge_runtime.recording.records import encode
from tests.conftest import wait_for

SPEC = AudioStream(rate_hz=10, max_age_ms=500, window=48, mels=40, silent_after=2)
MS = 1_000_000


def sound(samples: int, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).normal(0, 3000, samples).astype(np.int16)


def chunks(pcm: Sound, size: int, end_ns: int) -> list[AudioChunk]:
    """`pcm` in chunks of `size`, the last of which was captured at `end_ns`."""
    found = []
    for number, start in enumerate(range(0, len(pcm), size)):
        part = pcm[start : start + size]
        behind = len(pcm) - start - len(part)
        found.append(AudioChunk("mic", number, end_ns - behind * 10**9 // SAMPLE_RATE, part))
    return found


def test_log_mel_is_the_reference_librarys() -> None:
    """Whisper's features by kaldi-native-fbank, whose frames stand 80 samples to either side of their step: its second
    begins 40 samples later than the sound."""
    pcm = sound(SAMPLE_RATE)
    options = kaldi_native_fbank.WhisperFeatureOptions()
    options.dim = 80
    reference = kaldi_native_fbank.OnlineWhisperFbank(options)
    reference.accept_waveform(SAMPLE_RATE, (pcm / 32768).tolist())
    reference.input_finished()
    powers = np.stack([reference.get_frame(index) for index in range(reference.num_frames_ready)])
    ours = log_mel(pcm[40:], mel_filters(80))
    inner = slice(0, 92)  # beyond the sound's ends the reference mirrors it
    theirs = powers[1:][inner]
    # The reference counts in float32, exact to a part of the frame's loudest band: bands 25 dB below it are left out.
    told = theirs > theirs.max(axis=1, keepdims=True) * 10**-2.5
    assert told.mean() > 0.95
    assert np.abs(np.log(theirs) - ours[inner])[told].max() < 1e-4
    assert np.abs(theirs - np.exp(ours[inner])).max() < 1e-6


def test_a_window_is_the_same_however_the_sound_is_cut() -> None:
    pcm, kind = sound(SAMPLE_RATE), Audio()
    tensors_of = kind.preprocessor(SPEC, lambda name: b"")
    found = []
    for size in (160, 1000, 4000):
        messages = chunks(pcm, size, 10**10)
        part = kind.choose("mic", SPEC, messages, 10**10, 10**10)
        assert part.present
        found.append(tensors_of(part))
    for one in found:
        assert one["frames"].shape == (1, 48, 40) and one["mask"].shape == (1, 48, 1)
        assert one["mask"].all()
        assert np.array_equal(one["frames"], found[0]["frames"])
    count = 47 * 160 + FRAME
    expected = (log_mel(pcm[-count:], mel_filters(40)) - SPEC.mean) / SPEC.std
    assert np.allclose(found[0]["frames"][0], expected.clip(-5, 5), atol=1e-5)


def test_what_was_not_heard_is_masked_and_jitter_is_no_gap() -> None:
    first, last = sound(1600, 1), sound(1600, 2)
    near = [AudioChunk("mic", 0, 10**9, first), AudioChunk("mic", 1, 10**9 + 130 * MS, last)]
    heard = joined(near, 4000)
    assert np.array_equal(heard[0][-3200:], np.concatenate([first, last]))
    assert heard[1].tolist() == [False] * 800 + [True] * 3200
    far = [near[0], AudioChunk("mic", 1, 10**9 + 200 * MS, last)]  # 100 ms are missing between them
    pcm, known = joined(far, 4800)
    assert np.array_equal(pcm[:1600], first) and np.array_equal(pcm[3200:], last)
    assert known[:1600].all() and not known[1600:3200].any() and known[3200:].all()


def test_admission_refuses_what_is_no_sound() -> None:
    admit = Audio().admission(SPEC)
    reasons = {
        name: made.reason if isinstance(made := admit(content), Refusal) else None
        for name, content in {
            "good": sound(160).tobytes(), "empty": b"", "odd": b"abc", "long": b"ab" * MAX_CHUNK_BYTES,
            "floats": np.zeros(5), "dead": bytes(320), "dead 2": bytes(320), "dead 3": bytes(320), "again": sound(160),
        }.items()
    }  # fmt: skip
    assert reasons == {
        "good": None, "empty": "empty", "odd": "bad_format", "long": "too_big", "floats": "bad_format",
        "dead": None, "dead 2": None, "dead 3": "silent", "again": None,
    }  # fmt: skip


def test_a_record_comes_back_as_it_was() -> None:
    kind, message = Audio(), AudioChunk("mic", 3, 5, sound(100), id="x")
    raw = encode(kind.to_record(message, wall_time(10), None))
    back = kind.to_message("mic", msgspec.json.decode(raw, type=RawAudio))
    assert (back.seq, back.captured_ns, back.id) == (3, 5, "x") and np.array_equal(back.pcm, message.pcm)


def write_wav(path: Path, pcm: Sound, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return path


def test_a_wav_file_is_played_in_chunks_without_a_gap(tmp_path: Path) -> None:
    pcm = sound(4000)
    row = config.WavSource("mic", str(write_wav(tmp_path / "a.wav", pcm)), speed=20.0)
    mailbox = Mailbox(64)
    intake = Intake({"mic": SPEC}, {"mic": mailbox}, RealClock())
    (source,) = open_sources([row], {"mic": SPEC}, intake, "")
    source.start()
    wait_for(lambda: source.ended, "the end of the file")
    heard = [message for message in mailbox.take() if isinstance(message, AudioChunk)]
    assert [len(one.pcm) for one in heard] == [1600, 1600, 800]
    assert np.array_equal(np.concatenate([one.pcm for one in heard]), pcm)
    source.stop()


def test_another_form_of_wav_is_refused_with_what_to_do(tmp_path: Path) -> None:
    intake = Intake({"mic": SPEC}, {"mic": Mailbox(64)}, RealClock())
    stereo = write_wav(tmp_path / "s.wav", sound(4000), 44100, 2)
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    for path, message in ((stereo, "2 channels of 16 bits at 44100 Hz.*ffmpeg"), (tmp_path / "no.wav", "no WAV file")):
        with pytest.raises(ConfigError, match=message):
            open_sources([config.WavSource("mic", str(path))], {"mic": SPEC}, intake, "")
