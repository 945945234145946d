"""How well it hears: each speaker's commands, clean and in noise, and sentences that are none.

python -m tests.voice prints the table and writes it as JSON; `make voice` fetches all that it needs first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.voice.ears import silero
from edge_runtime.voice.frames import Said
from edge_runtime.voice.grammar import plain
from edge_runtime.voice.grammars import shipped_grammar
from edge_runtime.voice.listener import Listener
from edge_runtime.voice.moonshine import Moonshine
from edge_runtime.voice.pack import Pack
from tests.voice.commands import FOREIGN, HOME, VEHICLE, confused
from tests.voice.speakers import Speaker, in_a_room, say

COMMANDS = {"home": HOME, "vehicle": VEHICLE}
CHUNK = 512
LONGEST_S, MIN_SNR_DB = 8.0, 3.0
"""A source's own where it says nothing."""


class Cell(Struct):
    """One speaker at one noise."""

    speaker: str
    snr_db: float | None
    said: int = 0
    right: int = 0
    wrong: int = 0
    refused: dict[str, int] = {}
    """Commands, by reason."""
    silent: int = 0
    """Commands of which nothing was noticed."""
    confused: list[tuple[str, str]] = []
    """Said and heard, of critical words."""
    mistakes: list[tuple[str, str]] = []
    foreign: int = 0
    foreign_taken: list[tuple[str, str]] = []
    delays_ms: list[float] = []
    """From the end of speech to the sentence, of commands that were taken: see `Listening.hear`."""
    cpu_s: float = 0.0
    sound_s: float = 0.0


class Listening:
    """The recognisers of both grammars, and the time that they take."""

    def __init__(self, pack: Pack, **settings: float) -> None:
        self._recognisers = {name: Moonshine(pack, shipped_grammar(name), **settings) for name in COMMANDS}
        for recogniser in self._recognisers.values():
            recogniser.ready()

    def hear(self, grammar: str, sound: Sound) -> list[tuple[Said, float]]:
        """What is heard, each with its delay in ms, had the sound come at its own pace and a core been there for it."""
        begin_ns = begun_ns = 0

        def now_ns() -> int:
            return begin_ns + time.thread_time_ns() - begun_ns

        listener = Listener(silero(), self._recognisers[grammar], LONGEST_S, MIN_SNR_DB, 1.0, now_ns)
        told: list[tuple[Said, float]] = []
        free_ns = 0
        for start in range(0, len(sound), CHUNK):
            chunk = sound[start : start + CHUNK]
            captured_ns = (start + len(chunk)) * 1_000_000_000 // SAMPLE_RATE
            begin_ns, begun_ns = max(captured_ns, free_ns), time.thread_time_ns()
            for said in listener.hear(chunk, captured_ns):
                told.append((said, (now_ns() - said.ended_ns) / 1e6))
            free_ns = now_ns()
        return told


def cell(listening: Listening, speaker: Speaker, snr_db: float | None, some: int | None = None) -> Cell:
    """All of `speaker`'s commands (or `some` of each grammar, and half as many that are none) in this noise."""
    result = Cell(speaker.name, snr_db, refused={}, confused=[], mistakes=[], foreign_taken=[], delays_ms=[])
    for grammar, commands in COMMANDS.items():
        chosen, foreign = spread(commands, some), spread(FOREIGN[grammar], some and some // 2)
        sounds = say(speaker, [*chosen, *foreign])
        for number, (text, speech) in enumerate(zip([*chosen, *foreign], sounds, strict=True)):
            sound = in_a_room(speech, snr_db, number)
            begin_s = time.thread_time()
            told = listening.hear(grammar, sound)
            result.cpu_s += time.thread_time() - begin_s
            result.sound_s += len(sound) / SAMPLE_RATE
            if number < len(chosen):
                _count(result, text, told)
            else:
                result.foreign += 1
                result.foreign_taken += [
                    (text, said.content.text) for said, _ in told if not isinstance(said.content, Refusal)
                ]
    return result


def spread(sentences: Sequence[str], some: int | None) -> Sequence[str]:
    """`some` of them from all over, or all."""
    return sentences[:: max(1, len(sentences) // some)][:some] if some else sentences


def _count(result: Cell, text: str, told: Sequence[tuple[Said, float]]) -> None:
    result.said += 1
    taken = [(said.content.text, delay) for said, delay in told if not isinstance(said.content, Refusal)]
    result.delays_ms += [delay for _, delay in taken]
    for heard, _ in taken:
        if confused(text, heard):
            result.confused.append((text, heard))
    if len(taken) == 1 and plain(taken[0][0]) == plain(text):
        result.right += 1
    elif taken:
        result.wrong += 1
        result.mistakes.append((text, " / ".join(heard for heard, _ in taken)))
    elif told:
        counts = Counter(result.refused)
        counts[told[0][0].content.reason] += 1  # type: ignore[union-attr]
        result.refused = dict(counts)
    else:
        result.silent += 1
