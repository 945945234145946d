"""Where somebody speaks: the same in whatever portions the sound comes, bounded, and with true ends and noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.voice.ears import BEFORE, FRAME, NOISE, Ears, Utterance
from tests.voice.sounds import hum, loudness, still

SECOND = SAMPLE_RATE


def heard(sound: Sound, portion: int = 800, take: bool = False, longest_s: float = 8.0) -> list[tuple[Utterance, int]]:
    """Every utterance, and the sample at which it ended."""
    ears, told = Ears(loudness, longest_s), []
    for start in range(0, len(sound), portion):
        chunk = sound[start : start + portion]
        for utterance in ears.hear(chunk):
            told.append((utterance, start + len(chunk) - utterance.behind))
            if take and utterance.state == "pause":
                ears.taken()
    return told


SAID = np.concatenate((still(1.0), hum(0.5), still(0.1), hum(0.4), still(2.0)))
"""With a gap that is no pause; it ends at 2.0 s."""


def test_an_utterance_is_told_at_its_pause_and_again_when_it_is_over() -> None:
    (look, look_end), (pause, end), (over, over_end) = heard(SAID)
    assert (look.state, pause.state, over.state) == ("look", "pause", "over")
    assert look_end == end == over_end == pytest.approx(2.0 * SECOND, abs=FRAME)
    assert pause.seconds == pytest.approx(1.0, abs=0.07)
    assert look.behind == pytest.approx(0.16 * SECOND, abs=2 * 800)
    assert pause.behind == pytest.approx(0.3 * SECOND, abs=2 * 800)
    assert over.behind == pytest.approx(0.7 * SECOND, abs=2 * 800)
    loud = np.abs(pause.pcm.astype(int)) > 10_000
    assert np.flatnonzero(loud)[0] == pytest.approx(0.32 * SECOND, abs=FRAME * 2), "what was before is kept"
    assert len(pause.pcm) == pytest.approx((0.32 + 1.0 + 0.19) * SECOND, abs=FRAME * 3)


def test_what_was_taken_is_not_told_again_and_what_follows_is_another() -> None:
    told = heard(np.concatenate((SAID, SAID)), take=True)
    assert [utterance.state for utterance, _ in told] == ["look", "pause"] * 2
    assert told[2][1] - told[0][1] == pytest.approx(len(SAID), abs=FRAME)


def test_what_goes_on_after_a_pause_belongs_to_it() -> None:
    sound = np.concatenate((still(1.0), hum(0.5), still(0.45), hum(0.5), still(1.5)))
    told = [utterance for utterance, _ in heard(sound)]
    assert [one.state for one in told] == ["look", "pause", "look", "pause", "over"]
    first, whole = told[0], told[2]
    assert first.seconds == pytest.approx(0.5, abs=0.07) and whole.seconds == pytest.approx(1.45, abs=0.07)
    assert len(whole.pcm) > len(first.pcm)


@given(portions=st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_portions_make_no_difference(portions: list[int]) -> None:
    ears, whole = Ears(loudness, 8.0), list(Ears(loudness, 8.0).hear(SAID))
    told: list[tuple[Utterance, int]] = []
    at = number = 0
    while at < len(SAID):
        chunk = SAID[at : at + portions[number % len(portions)]]
        at, number = at + len(chunk), number + 1
        told += [(utterance, at - utterance.behind) for utterance in ears.hear(chunk)]
    assert [end for _, end in told] == [len(SAID) - utterance.behind for utterance in whole]
    for (utterance, _), other in zip(told, whole, strict=True):
        assert utterance.state == other.state and (utterance.pcm == other.pcm).all()
        assert (utterance.seconds, utterance.snr_db) == (other.seconds, other.snr_db)


def test_a_click_is_nobody() -> None:
    assert not heard(np.concatenate((still(1.0), hum(0.05), still(1.0), hum(0.06), still(2.0))))


@pytest.mark.parametrize("amplitude", [0.3, 0.05, 0.005])
def test_noise_is_measured_by_the_silence_around(amplitude: float) -> None:
    speech = hum(1.0)
    sound = np.concatenate(
        (still(2.0, amplitude / 10), speech + still(1.0, amplitude / 10), still(1.0, amplitude / 10))
    )
    expected = 10 * np.log10(0.125 / (amplitude / 10) ** 2)
    assert heard(sound)[0][0].snr_db == pytest.approx(expected, abs=0.5)


def test_digital_silence_is_no_noise_at_all() -> None:
    zero = np.zeros(SECOND, np.int16)
    assert heard(np.concatenate((zero, hum(1.0), zero)))[0][0].snr_db > 50


def test_who_does_not_stop_is_told_once_and_not_heard_until_there_is_silence() -> None:
    sound = np.concatenate((still(0.5), hum(9.0), still(1.0), hum(0.5), still(1.0)))
    told = heard(sound, longest_s=2.0)
    assert [utterance.state for utterance, _ in told] == ["too_long", "look", "pause", "over"]
    assert len(told[0][0].pcm) == 0 and told[0][0].seconds == pytest.approx(2.0, abs=0.1)


def test_memory_is_bounded_whatever_comes() -> None:
    ears = Ears(loudness, 2.0)
    for _ in range(40):
        list(ears.hear(hum(1.0)))
    assert len(ears._frames) <= 2 * 32 + BEFORE and len(ears._rest) < FRAME and len(ears._noise) <= NOISE


def test_after_a_loss_nothing_of_before_is_left() -> None:
    ears = Ears(loudness, 8.0)
    list(ears.hear(np.concatenate((still(1.0), hum(0.5)))))
    ears.lost()
    assert not list(ears.hear(still(2.0)))
