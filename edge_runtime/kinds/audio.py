"""Sound: 16 kHz mono PCM in chunks, of which a window of log-mel frames counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from edge_runtime.admit import Refusal
from edge_runtime.choose import window
from edge_runtime.kinds.kind import Admit, Field, Kind, Make, Preprocess, Read
from edge_runtime.kinds.record import Time, none, unset
from edge_runtime.messages import Message, Slice, Tensors
from edge_runtime.specs import CLIP_SIGMA, NS_PER_MS, Positive

SAMPLE_RATE = 16_000
"""Samples a second."""
FRAME, STEP = 400, 160
"""Samples of one frame (25 ms), and from frame to frame (10 ms)."""
SMALLEST_POWER = 1e-10
"""Mel powers are raised to this before their logarithm: digital silence has one."""
MAX_CHUNK_BYTES = 4 * 2 * SAMPLE_RATE
"""Four seconds; longer chunks are refused."""
GAP_NS = 40_000_000
"""Chunks whose stamps leave less than this between them follow one another: stamps are of arrival, and jitter."""
SLACK_NS = 500_000_000
"""How much older than the window's length a chunk may be and still reach into it, jitter included."""

Sound = NDArray[np.int16]


class AudioStream(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="audio"):
    """Chunks of 16 kHz mono PCM; the model reads a window of log-mel frames that ends with the newest sample."""

    rate_hz: Positive
    """Expected chunks a second, for health only."""
    max_age_ms: Positive
    """Older sound is absent."""
    window: Annotated[int, Meta(ge=1, le=3000)] = 96
    """Frames in the model's window (T), 10 ms each: at most 30 s."""
    mels: Annotated[int, Meta(ge=8, le=128)] = 40
    """Mel bands of a frame (M)."""
    mean: float = -9.0
    """Of the training data's log-mel values..."""
    std: Positive = 4.0
    """... and their deviation: the window is standardised with both."""
    hop_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Move the window at most this often; 0 = with every chunk."""
    required: bool = False
    """Without it the decision is the safe one."""
    silent_after: Annotated[int, Meta(ge=0)] = 0
    """Refuse chunks after this many in a row of one constant value (a muted or dead microphone); 0 = never."""


class AudioChunk(Message, frozen=True):
    """Sound up to `captured_ns`, when its last sample was taken."""

    pcm: Sound
    """int16 [N], 16 kHz mono."""


class RawAudio(Struct, frozen=True):
    """A chunk of sound: the fields of Foxglove's message (https://docs.foxglove.dev/docs/sdk/schemas/raw-audio), and
    ours.
    """

    timestamp: Time
    data: bytes
    """Base64 in JSON: int16, little-endian."""
    format: Literal["pcm-s16"]
    sample_rate: int
    number_of_channels: int
    captured_ns: int
    """Monotonic nanoseconds."""
    seq: int
    id: str | UnsetType = UNSET


class Audio(Kind[AudioStream, AudioChunk, RawAudio]):
    """Bytes of little-endian int16, or int16 [N]."""

    spec = AudioStream
    message = AudioChunk
    content = (bytes, memoryview, np.ndarray)
    record = RawAudio
    schema = "foxglove.RawAudio"
    keep = 64
    surplus = "late"

    def admission(self, spec: AudioStream) -> Admit:
        """Refuses what is no int16 mono sound, empty, too long, or constant for too long."""
        constant = 0

        def admit(content: Any) -> Make | Refusal:
            nonlocal constant
            pcm = samples_of(content)
            if isinstance(pcm, Refusal):
                return pcm
            constant = constant + 1 if pcm.min() == pcm.max() else 0
            if spec.silent_after and constant > spec.silent_after:
                return Refusal("silent", f"{constant} chunks of one constant value")
            return lambda stream, seq, captured_ns, id: AudioChunk(stream, seq, captured_ns, pcm, id=id)

        return admit

    def choose(
        self, name: str, spec: AudioStream, messages: Sequence[Message], reference_ns: int, now_ns: int
    ) -> Slice:
        """The chunks that reach into the window."""
        return window(name, spec, messages, reference_ns, now_ns, _window_ns(spec) + SLACK_NS)

    def reach_ns(self, spec: AudioStream) -> int:
        return _window_ns(spec) + SLACK_NS + int((2 * spec.hop_ms + spec.max_age_ms) * NS_PER_MS)

    def fields(self, spec: AudioStream) -> dict[str, Field]:
        return {
            "frames": Field("float32", (1, spec.window, spec.mels), "readings"),
            "mask": Field("float32", (1, spec.window, 1)),
        }

    def preprocessor(self, spec: AudioStream, read: Read) -> Preprocess:
        """`frames` float32 [1, T, M], standardised, 0 where not heard; `mask` float32 [1, T, 1], 1 = heard."""
        mels = mel_filters(spec.mels)
        count = (spec.window - 1) * STEP + FRAME

        def tensors(part: Slice) -> Tensors:
            sound, heard = joined([chunk for chunk in part.messages if isinstance(chunk, AudioChunk)], count)
            whole: NDArray[np.bool_] = np.lib.stride_tricks.sliding_window_view(heard, FRAME)[::STEP].min(axis=1)
            scaled: NDArray[np.float64] = np.clip(
                (log_mel(sound, mels) - spec.mean) / spec.std, -CLIP_SIGMA, CLIP_SIGMA
            )
            frames = np.where(whole[:, None], scaled, 0.0).astype(np.float32)
            return {"frames": frames[None], "mask": whole.astype(np.float32)[None, :, None]}

        return tensors

    def to_record(self, message: AudioChunk, at: Time, jpeg_quality: int | None) -> RawAudio:
        data = message.pcm.astype("<i2", copy=False).tobytes()
        return RawAudio(at, data, "pcm-s16", SAMPLE_RATE, 1, message.captured_ns, message.seq, unset(message.id))

    def to_message(self, stream: str, record: RawAudio) -> AudioChunk:
        if (record.sample_rate, record.number_of_channels) != (SAMPLE_RATE, 1) or len(record.data) % 2:
            raise ValueError(f"sound {record.seq} of {stream} is not {SAMPLE_RATE} Hz mono")
        pcm = np.frombuffer(record.data, "<i2").astype(np.int16)
        return AudioChunk(stream, record.seq, record.captured_ns, pcm, id=none(record.id))

    def weight(self, message: AudioChunk) -> int:
        return message.pcm.nbytes

    def detail(self, spec: AudioStream) -> str:
        return f"window {spec.window * STEP * 1000 // SAMPLE_RATE} ms, {spec.mels} mel bands"


def samples_of(content: Any) -> Sound | Refusal:
    """The samples of a chunk as a sender gives it or as it was recorded."""
    if isinstance(content, AudioChunk):
        return content.pcm
    if isinstance(content, np.ndarray):
        if content.dtype != np.int16 or content.ndim != 1:
            return Refusal("bad_format", f"{content.dtype}{list(content.shape)}, expected int16 [N]")
        size = content.nbytes
    else:
        size = len(content)
    if size == 0:
        return Refusal("empty")
    if size > MAX_CHUNK_BYTES:
        return Refusal("too_big", f"{size} bytes of sound, at most {MAX_CHUNK_BYTES}")
    if size % 2:
        return Refusal("bad_format", f"{size} bytes are no whole number of 16-bit samples")
    # A copy: half a window lives on for seconds, and must not hold the sender's buffer.
    return content.copy() if isinstance(content, np.ndarray) else np.frombuffer(content, "<i2").astype(np.int16)


def _window_ns(spec: AudioStream) -> int:
    return ((spec.window - 1) * STEP + FRAME) * 1_000_000_000 // SAMPLE_RATE


def joined(chunks: Sequence[AudioChunk], count: int) -> tuple[Sound, NDArray[np.bool_]]:
    """The last `count` samples up to the end of the last of `chunks` (in order of capture time), int16 [count], and
    which of them were heard, bool [count].

    A chunk joins the one after it where their stamps leave at most 40 ms between them, or overlap; what is missing
    between stamps further apart, and before the first chunk, is 0 and not heard.
    """
    sound, heard = np.zeros(count, np.int16), np.zeros(count, np.bool_)
    end = count
    begins_ns: int | None = None
    for chunk in reversed(chunks):
        length_ns = len(chunk.pcm) * 1_000_000_000 // SAMPLE_RATE
        if begins_ns is not None and (gap_ns := begins_ns - chunk.captured_ns) > GAP_NS:
            end -= gap_ns * SAMPLE_RATE // 1_000_000_000
        if end <= 0:
            break
        part = chunk.pcm[-end:]
        sound[end - len(part) : end], heard[end - len(part) : end] = part, True
        end -= len(chunk.pcm)
        begins_ns = chunk.captured_ns - length_ns
    return sound, heard


def log_mel(sound: Sound, mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of the mel powers [T, M] of `sound` (int16, as parts of 32768); `mels` [M, 201].

    Frames of 400 samples every 160, under a periodic Hann window, w[n] = (1 - cos(2 pi n / 400)) / 2; the power
    |FFT|^2 of each of the 201 frequencies, summed by `mels`, at least 1e-10. The log-mel spectrogram of speech
    recognition (Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420, before the cosine transform), with the
    frame, step and filters of Whisper (Radford et al. 2022, arXiv:2212.04356).
    """
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::STEP] / 32768.0
    power = np.abs(np.fft.rfft(frames * _HANN, axis=1)) ** 2
    logarithm: NDArray[np.float64] = np.log(np.maximum(power @ mels.T, SMALLEST_POWER))
    return logarithm


_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)


def mel_filters(count: int) -> NDArray[np.float64]:
    """[count, 201]: triangular filters from 0 to 8000 Hz, evenly spaced and of equal area on the mel scale of Slaney's
    Auditory Toolbox (1998, Interval Research TR 1998-010): linear below 1000 Hz (3 mel = 200 Hz), above it
    logarithmic, 27 mel from 1000 to 6400 Hz. Each triangle rises from its neighbour's centre to its own and falls to
    the next; its height is 2 / (its width in Hz).
    """
    top = 15.0 + 27.0 * np.log(8000 / 1000) / np.log(6.4)
    points = np.linspace(0.0, top, count + 2)
    hertz = np.where(points < 15.0, points * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) * (points - 15.0) / 27.0))
    frequencies = np.arange(FRAME // 2 + 1) * SAMPLE_RATE / FRAME
    low, centre, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    rise, fall = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (high - low)
    return filters
