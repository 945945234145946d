"""Messages for any bundle, as its streams would send them; the same on every call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec

SENTENCES = ("turn left at the next junction", "turn on the kitchen light", "go straight ahead", "打开客厅的灯", "stop")
TEXT_EVERY_S = 2.0
STEP_NS = 33_333_333


def moments(bundle: Bundle, count: int, every: bool = False, seed: int = 0) -> Iterator[tuple[int, list[Message]]]:
    """`count` times (ns) one trigger period apart, each with the messages that have come since the one before.

    Cameras send with every step, sensors at their own rate with some channels left out, text every TEXT_EVERY_S; with
    `every` all send with every step.
    """
    rng = np.random.default_rng(seed)
    sent = dict.fromkeys(bundle.manifest.streams, 0)
    for index in range(count):
        now_ns = 1_000_000_000 + index * STEP_NS
        messages: list[Message] = []
        for name, spec in bundle.manifest.streams.items():
            if every or index * STEP_NS >= sent[name] * _period_ns(spec):
                messages.append(_message(name, spec, sent[name], now_ns, rng))
                sent[name] += 1
        yield now_ns, messages


def _period_ns(spec: StreamSpec) -> float:
    if isinstance(spec, CameraStream):
        return STEP_NS
    return 1e9 / spec.rate_hz if isinstance(spec, SensorStream) else 1e9 * TEXT_EVERY_S


def _message(name: str, spec: StreamSpec, seq: int, now_ns: int, rng: np.random.Generator) -> Message:
    if isinstance(spec, CameraStream):
        coarse = rng.integers(0, 256, (spec.height // 8 + 1, spec.width // 8 + 1, 3), dtype=np.uint8)
        image = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[: spec.height, : spec.width]
        return Frame(name, seq, now_ns, np.ascontiguousarray(image))
    if isinstance(spec, SensorStream):
        values = {
            channel.name: float(np.clip(rng.normal(channel.mean, channel.std), channel.minimum, channel.maximum))
            for channel in spec.channels
            if channel.required or rng.random() < 0.9
        }
        return Sample(name, seq, now_ns, values)
    return Utterance(name, seq, now_ns, SENTENCES[seq % len(SENTENCES)])
