"""From sound to sentences: ears, the noise floor and a recogniser, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msgspec import UNSET
from msgspec.structs import replace

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.messages import Speech, Words
from edge_runtime.voice.ears import Detector, Ears, Utterance
from edge_runtime.voice.frames import Said
from edge_runtime.voice.recogniser import NOISE, TOO_LONG, Recogniser

AWAKE = 8 * SAMPLE_RATE
"""Samples for which it listens behind a wake word, for one sentence."""
AGAIN = SAMPLE_RATE
Wake = Callable[[bytes], bool]
"""Sound in portions (int16) to whether a wake word has ended in it. One stream, one thread."""


class Listener:
    """One thread: who calls it waits for the recogniser."""

    def __init__(
        self,
        detector: Detector,
        recogniser: Recogniser,
        longest_s: float,
        min_snr_db: float,
        speed: float = 1.0,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wake: Wake | None = None,
    ) -> None:
        """`speed`: sound comes so many times as fast as it was made. `wake`: whom it waits for before it listens."""
        self._ears = Ears(detector, longest_s)
        self._recogniser = recogniser
        self._longest_s, self._min_snr_db = longest_s, min_snr_db
        self._ns_per_sample = 1e9 / SAMPLE_RATE / speed
        self._now_ns = now_ns
        self._wake = wake
        self._awake = 0
        """Samples for which it still listens; less than nothing: since when it does not. Only with a wake word."""
        self._looked: Words | Refusal = Refusal(NOISE)
        """What the utterance was that may still go on."""

    def ready(self) -> None:
        """Do what takes long, before there is something to hear."""
        self._recogniser.ready()

    def hear(self, pcm: Sound, captured_ns: int) -> Iterator[Said]:
        """Sentences and refusals that this portion (int16 [N], 16 kHz) brings; its last sample was taken at
        `captured_ns`. Raises OSError where the recogniser is elsewhere and cannot be reached."""
        if self._wake is not None:
            self._awake -= len(pcm)
            # What is told again at once is the same word, and what is said behind it must not be lost.
            if self._wake(pcm.astype("<i2").tobytes()) and self._awake < AWAKE - AGAIN:
                self._ears.taken()
                self._awake = AWAKE
        for utterance in self._ears.hear(pcm):
            if self._wake is not None and self._awake + utterance.behind <= 0:
                continue
            ended_ns = captured_ns - int(utterance.behind * self._ns_per_sample)
            content = self._judge(utterance)
            if utterance.state == "look":
                continue
            if isinstance(content, Words):
                self._ears.taken()
                self._awake = 0
                assert content.speech is not None
                delay_ms = max(0.0, (self._now_ns() - ended_ns) / 1e6)
                yield Said(content._replace(speech=replace(content.speech, delay_ms=delay_ms)), ended_ns)
            elif utterance.state != "pause":
                yield Said(content, ended_ns)

    def lost(self) -> None:
        """Sound is missing between what was heard and what comes."""
        self._ears.lost()

    def _judge(self, utterance: Utterance) -> Words | Refusal:
        """What it is, or was when it was looked at."""
        if utterance.state == "too_long":
            return Refusal(TOO_LONG, f"more than {self._longest_s:g} s")
        if utterance.state == "look":
            self._looked = self._look(utterance)
        return self._looked

    def _look(self, utterance: Utterance) -> Words | Refusal:
        if utterance.snr_db < self._min_snr_db:
            return Refusal(NOISE, f"{utterance.snr_db:.1f} dB above the noise, at least {self._min_snr_db:g}")
        heard = self._recogniser.transcribe(utterance.pcm)
        if isinstance(heard, Refusal):
            return heard
        score, margin = (UNSET if figure is None else figure for figure in (heard.score, heard.margin))
        return Words(heard.text, heard.lang, Speech(utterance.seconds * 1000, 0.0, score, margin))
