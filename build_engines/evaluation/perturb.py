"""Ways in which inputs go bad in the field: late, old, blurred, dark, noisy, frozen, biased, not a number, misheard.

Every function takes labelled moments and gives them with their raw messages changed, before the device's admission;
what admission makes of them is part of what is measured. Random changes are seeded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.moments import LabelledSet, RawMessage
from edge_runtime.admit import Refusal, decode_jpeg
from edge_runtime.kinds.audio import samples_of
from edge_runtime.messages import Frame, Sample, Words
from edge_runtime.streams import AudioStream, CameraStream, SensorStream, StreamSpec, TextStream

Moments = Iterable[LabelledSet]
Change = Callable[[RawMessage, np.random.Generator], RawMessage]
WORD_ERRORS = 0.15
"""Share of words that are dropped, exchanged or replaced: the word error rate of speech recognition in a noisy room."""
SEED = 20


def late(moments: Moments, delays_ns: Mapping[str, int], streams: Mapping[str, StreamSpec]) -> Iterator[LabelledSet]:
    """What is known at each moment when the messages of some streams come later than they were captured.

    In a recording, the messages are held back: old content, its true stamps. A picture is stamped as captured exactly
    so long ago, for the device has one at its own rate and the recording may not. A group of a single moment has no
    past: there its own messages are stamped earlier.
    """
    for _, part in groupby(moments, key=lambda moment: moment.group):
        group = list(part)
        if len(group) == 1:
            yield _stamped(group[0], delays_ns)
        else:
            yield from _held_back(group, delays_ns, streams)


def _stamped(moment: LabelledSet, delays_ns: Mapping[str, int]) -> LabelledSet:
    messages = (replace(raw, captured_ns=raw.captured_ns - delays_ns.get(raw.stream, 0)) for raw in moment.messages)
    return replace(moment, messages=tuple(messages))


def _held_back(
    group: list[LabelledSet], delays_ns: Mapping[str, int], streams: Mapping[str, StreamSpec]
) -> Iterator[LabelledSet]:
    waiting: list[RawMessage] = []
    newest: dict[str, RawMessage] = {}
    for moment in group:
        arrived: list[RawMessage] = []
        still: list[RawMessage] = []
        for raw in (*waiting, *moment.messages):
            on_time = raw.captured_ns + delays_ns.get(raw.stream, 0) <= moment.reference_ns
            (arrived if on_time else still).append(raw)
        waiting = still
        kept = [raw for raw in arrived if not (delays_ns.get(raw.stream) and _is_camera(streams, raw))]
        newest |= {raw.stream: raw for raw in arrived if delays_ns.get(raw.stream) and _is_camera(streams, raw)}
        for name, raw in newest.items():
            kept.append(replace(raw, captured_ns=moment.reference_ns - delays_ns[name]))
        yield replace(moment, messages=tuple(sorted(kept, key=lambda raw: raw.captured_ns)))


def _is_camera(streams: Mapping[str, StreamSpec], raw: RawMessage) -> bool:
    return isinstance(streams.get(raw.stream), CameraStream)


def changed(moments: Moments, stream: str, change: Change) -> Iterator[LabelledSet]:
    """`change` done to every message of `stream`."""
    rng = np.random.default_rng(SEED)
    for moment in moments:
        messages = tuple(change(raw, rng) if raw.stream == stream else raw for raw in moment.messages)
        yield replace(moment, messages=messages)


def _picture(function: Callable[[NDArray[np.uint8], np.random.Generator], Any]) -> Change:
    """A change of a message's picture."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        image = _image(raw.content)
        if image is None:
            return raw
        values = np.clip(function(image.astype(np.uint8), rng), 0, 255).astype(np.uint8)
        return replace(raw, content=cv2.imencode(".jpg", values, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes())

    return change


def _image(content: Any) -> NDArray[np.uint8] | None:
    """The picture in a camera's content, [height, width, 3]; None where there is none."""
    if isinstance(content, Frame):
        return content.image
    if isinstance(content, np.ndarray):
        return content
    decoded = decode_jpeg(content)
    return None if isinstance(decoded, Refusal) else decoded


def _blur(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return cv2.GaussianBlur(image, (0, 0), max(0.8, 0.02 * image.shape[1]))


def _dark(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return 0.25 * image


def _noise(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return image + rng.normal(0.0, 25.0, image.shape)


def frozen(moments: Moments, stream: str) -> Iterator[LabelledSet]:
    """The camera shows an old picture as new: the first of its recording; in groups of one moment, the last picture
    seen before of another label."""
    old: dict[str, Any] = {}
    for _, part in groupby(moments, key=lambda moment: moment.group):
        group = list(part)
        first = next((raw.content for one in group for raw in one.messages if raw.stream == stream), None)
        if first is None:
            yield from group  # no picture at all: nothing that could freeze, and nothing to be shown later
            continue
        if len(group) == 1:
            shown = next((content for label, content in reversed(old.items()) if label != group[0].label), first)
            old.pop(group[0].label, None)
            old[group[0].label] = first
        else:
            shown = first
        for moment in group:
            messages = (replace(raw, content=shown) if raw.stream == stream else raw for raw in moment.messages)
            yield replace(moment, messages=tuple(messages))


def _bias(spec: SensorStream) -> Change:
    """Every channel reads one deviation too much, as far as its range goes."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        values = _values(raw)
        for channel in spec.channels:
            if channel.name in values:
                values[channel.name] = min(channel.maximum, values[channel.name] + channel.std)
        return replace(raw, content=values)

    return change


def _not_a_number(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
    return replace(raw, content=dict.fromkeys(_values(raw), float("nan")))


def _values(raw: RawMessage) -> dict[str, float]:
    return dict(raw.content.values if isinstance(raw.content, Sample) else raw.content)


class Misheard:
    """Word errors as speech recognition makes them: a word is dropped, changes places, or becomes another that was
    said before. Sentences without spaces (Chinese) are changed by character."""

    def __init__(self, rate: float = WORD_ERRORS, same_count: bool = False) -> None:
        """`same_count`: words are replaced only, so that each word's tag stays with its place."""
        self._rate = rate
        self._same_count = same_count
        self._heard: list[str] = []

    def __call__(self, raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        text = raw.content.text
        gap = " " if re.search(r"\w\s+\w", text) else ""
        units = text.split() if gap else list(text)
        self._heard = [*self._heard[-500:], *units]
        kept: list[str] = []
        for unit in units:
            if rng.random() >= self._rate:
                kept.append(unit)
                continue
            error = 2 if self._same_count else rng.integers(3)
            if error == 1 and kept:
                kept.insert(-1, unit)
            elif error == 2:
                kept.append(self._heard[int(rng.integers(len(self._heard)))])
        # Recognition that hears nothing sends nothing; a sentence that loses all its words keeps one.
        return replace(raw, content=Words(gap.join(kept or units[:1]), raw.content.lang))


def _sound(function: Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]) -> Change:
    """A change of a chunk's samples, given and taken as parts of full scale."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        pcm = samples_of(raw.content)
        if isinstance(pcm, Refusal):
            return raw
        values = np.clip(function(pcm / 32768.0, rng), -1.0, 32767 / 32768)
        return replace(raw, content=np.round(values * 32768.0).astype(np.int16))

    return change


def _hiss(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise as loud as the chunk itself: a signal-to-noise ratio of 0 dB."""
    return sound + rng.normal(0.0, max(1e-4, float(np.sqrt(np.mean(sound**2)))), sound.shape)


def _clipped(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A gain ten times too high."""
    return 10.0 * sound


def _muted(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros_like(sound)


Fault = Callable[[Moments], Iterator[LabelledSet]]


def faults(name: str, spec: StreamSpec, tagged: bool = False) -> dict[str, Fault]:
    """What can befall the stream `name`, by name of the fault. `tagged`: its words have tags, and keep their number."""

    return FAULTS[type(spec)](name, spec, tagged)


def _made(name: str, change: Callable[[], Change]) -> Fault:
    return lambda moments: changed(moments, name, change())


def _of_camera(name: str, spec: Any, tagged: bool) -> dict[str, Fault]:
    pictures = {"blurred": _blur, "dark": _dark, "noisy": _noise}
    found = {fault: _made(name, partial(_picture, function)) for fault, function in pictures.items()}
    return found | {"frozen": lambda moments: frozen(moments, name)}


def _of_sensors(name: str, spec: Any, tagged: bool) -> dict[str, Fault]:
    return {"biased": _made(name, lambda: _bias(spec)), "not a number": _made(name, lambda: _not_a_number)}


def _of_text(name: str, spec: Any, tagged: bool) -> dict[str, Fault]:
    if spec.word_pieces:
        return {}  # a tag per word: with other words, other tags would be right, and nobody says which
    return {f"{WORD_ERRORS:.0%} of words wrong": _made(name, partial(Misheard, same_count=tagged))}


def _of_sound(name: str, spec: Any, tagged: bool) -> dict[str, Fault]:
    sounds = {"noisy": _hiss, "clipped": _clipped, "muted": _muted}
    return {fault: _made(name, partial(_sound, function)) for fault, function in sounds.items()}


FAULTS: dict[type, Callable[[str, Any, bool], dict[str, Fault]]] = {
    CameraStream: _of_camera,
    SensorStream: _of_sensors,
    TextStream: _of_text,
    AudioStream: _of_sound,
}
"""What can befall a stream, by the kind of its spec."""
