"""Messages for any bundle, as its streams would send them; the same on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.kinds.audio import SAMPLE_RATE, AudioChunk
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.streams import AudioStream, CameraStream, SensorStream, TextStream

SENTENCES = ("turn left at the next junction", "turn on the kitchen light", "go straight ahead", "打开客厅的灯", "stop")
TEXT_EVERY_S = 2.0
STEP_NS = 33_333_333


def moments(bundle: Bundle, count: int, every: bool = False, seed: int = 0) -> Iterator[tuple[int, list[Message]]]:
    """`count` times (ns) one trigger period apart, each with the messages that have come since the one before.

    Cameras send with every step, sensors (some channels left out) and sound at their own rate, text every TEXT_EVERY_S;
    with `every` all send with every step.
    """
    rng = np.random.default_rng(seed)
    sent = dict.fromkeys(bundle.manifest.streams, 0)
    for index in range(count):
        now_ns = 1_000_000_000 + index * STEP_NS
        messages: list[Message] = []
        for name, spec in bundle.manifest.streams.items():
            make, period_ns = SENDERS[type(spec)]
            if every or index * STEP_NS >= sent[name] * period_ns(spec):
                messages.append(make(name, spec, sent[name], now_ns, rng))
                sent[name] += 1
        yield now_ns, messages


def _frame(name: str, spec: CameraStream, seq: int, now_ns: int, rng: np.random.Generator) -> Frame:
    coarse = rng.integers(0, 256, (spec.height // 8 + 1, spec.width // 8 + 1, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[: spec.height, : spec.width]
    return Frame(name, seq, now_ns, np.ascontiguousarray(image))


def _sample(name: str, spec: SensorStream, seq: int, now_ns: int, rng: np.random.Generator) -> Sample:
    values = {
        channel.name: float(np.clip(rng.normal(channel.mean, channel.std), channel.minimum, channel.maximum))
        for channel in spec.channels
        if channel.required or rng.random() < 0.9
    }
    return Sample(name, seq, now_ns, values)


def _utterance(name: str, spec: TextStream, seq: int, now_ns: int, rng: np.random.Generator) -> Utterance:
    return Utterance(name, seq, now_ns, SENTENCES[seq % len(SENTENCES)])


def _chunk(name: str, spec: AudioStream, seq: int, now_ns: int, rng: np.random.Generator) -> AudioChunk:
    sound = np.clip(rng.normal(0, 3000, int(SAMPLE_RATE / spec.rate_hz)), -32768, 32767)
    return AudioChunk(name, seq, now_ns, sound.astype(np.int16))


def _by_rate(spec: Any) -> float:
    return 1e9 / float(spec.rate_hz)


SENDERS: dict[type, tuple[Callable[[str, Any, int, int, np.random.Generator], Message], Callable[[Any], float]]] = {
    CameraStream: (_frame, lambda spec: STEP_NS),
    SensorStream: (_sample, _by_rate),
    TextStream: (_utterance, lambda spec: 1e9 * TEXT_EVERY_S),
    AudioStream: (_chunk, _by_rate),
}
"""Kind of stream to what makes a message of it, and how often one comes (ns)."""
