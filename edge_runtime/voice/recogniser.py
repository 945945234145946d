"""What recognisers have in common: sound of one utterance in, a sentence or the reason why not out."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import Sound

NOISE, NOT_IN_GRAMMAR, TOO_LONG, NO_RECOGNISER = "noise", "not_in_grammar", "too_long", "no_recogniser"
"""Why speech is refused, as it is counted."""


class Heard(Struct, frozen=True):
    """A sentence, and how sure it is. See `beam.Found`."""

    text: str
    lang: str | None = None
    score: float | None = None
    """0 = as probable as what would be heard without a grammar; None where the recogniser tells none."""
    margin: float | None = None
    """By how much it is more probable than the next sentence, natural logarithm."""


class Recogniser(Protocol):
    """One thread at a time."""

    def ready(self) -> None:
        """Do what takes long, so that the first utterance need not wait for it."""
        ...

    def transcribe(self, pcm: Sound) -> Heard | Refusal:
        """`pcm`: int16 [N], 16 kHz mono, one utterance. May raise OSError where the recogniser is elsewhere."""
        ...
