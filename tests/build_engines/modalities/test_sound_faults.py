"""What befalls sound: as loud a hiss, a gain too high, and a dead microphone; lateness as for other streams."""

from __future__ import annotations

import numpy as np
import pytest

from build_engines.evaluation.lateness import late
from build_engines.modalities import modality_of
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.kinds.audio import AudioStream, Sound
from edge_runtime.streams import StreamSpec

SPEC = AudioStream(rate_hz=10, max_age_ms=500, window=48, mels=16)
AT_NS = 10**9
FAULTS = modality_of(SPEC).faults("mic", SPEC, tagged=False)


def moment(pcm: object) -> LabelledSet:
    return LabelledSet("a", "a", AT_NS, "siren", (RawMessage("mic", AT_NS, pcm), RawMessage("other", AT_NS, pcm)))


def after(fault: str, pcm: object) -> Sound:
    (changed,) = FAULTS[fault]([moment(pcm)])
    mine, other = changed.messages
    assert other.content is pcm, "other streams are left alone"
    assert isinstance(mine.content, np.ndarray) and mine.content.dtype == np.int16
    return mine.content


@pytest.fixture
def pcm() -> Sound:
    return (3000 * np.sin(np.arange(16000) / 5)).astype(np.int16)


def test_each_fault_does_what_its_name_says(pcm: Sound) -> None:
    assert set(FAULTS) == {"noisy", "clipped", "muted"}
    noise = after("noisy", pcm).astype(float) - pcm
    assert noise.std() == pytest.approx(pcm.std(), rel=0.05), "0 dB"
    clipped = after("clipped", pcm)
    assert np.array_equal(clipped, np.clip(10 * pcm.astype(int), -32768, 32767))
    assert not after("muted", pcm).any() and len(after("muted", pcm)) == len(pcm)


def test_bytes_as_a_sender_gives_them_are_changed_alike(pcm: Sound) -> None:
    assert np.array_equal(after("clipped", pcm.astype("<i2").tobytes()), after("clipped", pcm))


def test_what_admission_refuses_is_left_to_admission() -> None:
    (changed,) = FAULTS["muted"]([moment(b"odd")])
    assert changed.messages[0].content == b"odd"


def test_late_sound_of_a_single_moment_is_stamped_earlier(pcm: Sound) -> None:
    streams: dict[str, StreamSpec] = {"mic": SPEC}
    (changed,) = late([moment(pcm)], {"mic": 200_000_000}, streams)
    assert [one.captured_ns for one in changed.messages] == [AT_NS - 200_000_000, AT_NS]
