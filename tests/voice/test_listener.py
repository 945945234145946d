"""From sound to sentences, with a recogniser that tells what it was given."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.messages import Words
from edge_runtime.voice.frames import Said
from edge_runtime.voice.listener import Listener
from edge_runtime.voice.recogniser import Heard
from tests.voice.sounds import hum, loudness, still


class Counting:
    """Knows utterances of at least a second."""

    def __init__(self) -> None:
        self.lengths: list[float] = []

    def ready(self) -> None: ...

    def transcribe(self, pcm: Sound) -> Heard | Refusal:
        self.lengths.append(len(pcm) / SAMPLE_RATE)
        if self.lengths[-1] < 1.2:
            return Refusal("not_in_grammar", f"{self.lengths[-1]:.1f} s")
        return Heard("stop", "en", 0.25, 7.0)


def listen(sound: Sound, min_snr_db: float = 5.0, late_ms: float = 0.0) -> tuple[list[Said], Counting]:
    recogniser, now = Counting(), 0
    listener = Listener(loudness, recogniser, 3.0, min_snr_db, 1.0, lambda: now + int(late_ms * 1e6))
    said: list[Said] = []
    for start in range(0, len(sound), 800):
        now = (start + len(sound[start : start + 800])) * 1_000_000_000 // SAMPLE_RATE
        said += listener.hear(sound[start : start + 800], now)
    return said, recogniser


def test_a_sentence_counts_from_the_end_of_its_speech_and_tells_how_it_was_heard() -> None:
    ((words, ended_ns),), _ = listen(np.concatenate((still(1.0), hum(1.5), still(1.0))), late_ms=120.0)
    assert isinstance(words, Words) and words.speech is not None
    assert (words.text, words.lang, words.speech.score, words.speech.margin) == ("stop", "en", 0.25, 7.0)
    assert ended_ns == pytest.approx(2.5e9, abs=40e6)
    assert words.speech.duration_ms == pytest.approx(1500, abs=70)
    assert words.speech.delay_ms == pytest.approx(320 + 120, abs=90)


def test_a_refusal_is_told_once_and_only_when_nothing_more_comes() -> None:
    (refused,), recogniser = listen(np.concatenate((still(1.0), hum(0.5), still(2.0))))
    assert isinstance(refused.content, Refusal) and refused.content.reason == "not_in_grammar"
    assert refused.ended_ns == pytest.approx(1.5e9, abs=40e6)
    assert len(recogniser.lengths) == 1, "it is asked once"


def test_what_is_no_sentence_yet_may_become_one_by_what_follows() -> None:
    said, recogniser = listen(np.concatenate((still(1.0), hum(0.5), still(0.45), hum(0.6), still(1.0))))
    assert [type(one.content) for one in said] == [Words]
    assert len(recogniser.lengths) == 2 and recogniser.lengths[1] > recogniser.lengths[0] + 0.9


def test_speech_in_noise_is_refused_unheard() -> None:
    loud = still(4.0, 0.1)
    loud[2 * SAMPLE_RATE : 3 * SAMPLE_RATE] += hum(1.0, 0.25)
    (refused,), recogniser = listen(loud, min_snr_db=8.0)
    assert isinstance(refused.content, Refusal) and refused.content.reason == "noise" and not recogniser.lengths
    (heard,), _ = listen(np.concatenate((loud[: 3 * SAMPLE_RATE], loud[SAMPLE_RATE:][:SAMPLE_RATE])), min_snr_db=2.0)
    assert isinstance(heard.content, Words)


def test_who_does_not_stop_is_refused() -> None:
    (refused,), recogniser = listen(np.concatenate((still(1.0), hum(9.0), still(1.0))))
    assert refused.content == Refusal("too_long", "more than 3 s") and not recogniser.lengths


def test_with_a_wake_word_it_hears_the_one_sentence_that_follows_it() -> None:
    called = np.full(SAMPLE_RATE, 12345, np.int16)[: SAMPLE_RATE // 20]
    silence, speech = still(1.0), np.concatenate((hum(1.5), still(1.0)))
    recogniser = Counting()
    listener = Listener(
        loudness, recogniser, 3.0, 5.0, now_ns=lambda: 0, wake=lambda pcm: pcm == called.astype("<i2").tobytes()
    )

    def told(*parts: Sound) -> list[str]:
        sound = np.concatenate(parts)
        assert len(sound) % 800 == 0
        portions = (sound[start : start + 800] for start in range(0, len(sound), 800))
        return [one.content.text for portion in portions for one in listener.hear(portion, 0)]  # type: ignore[union-attr]

    assert told(silence, speech) == [] and not recogniser.lengths, "nobody has called: it is not even looked at"
    assert told(called, silence, speech, speech) == ["stop"], "one sentence"
    assert told(called, *[silence] * 9, speech) == [], "too late"
    assert told(called, called, speech) == ["stop"], "told twice is one"


def test_after_a_loss_what_was_said_before_is_forgotten() -> None:
    listener = Listener(loudness, Counting(), 3.0, 5.0)
    assert not list(listener.hear(np.concatenate((still(1.0), hum(1.5))), 0))
    listener.lost()
    assert not list(listener.hear(still(2.0), 0))
