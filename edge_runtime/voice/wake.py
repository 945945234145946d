"""Wake words, by microWakeWord's networks out of the package pymicro-wakeword (Apache-2.0)."""

from __future__ import annotations

from edge_runtime.voice.listener import Wake


def micro_wake_word(name: str) -> Wake:
    """One of its own: `okay_nabu`, `hey_jarvis`, `hey_mycroft`, `alexa`."""
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    word, frontend = MicroWakeWord.from_builtin(Model(name)), MicroWakeWordFeatures()

    def wake(pcm: bytes) -> bool:
        # All of the sound goes through: the network remembers what it was shown.
        return sum(bool(word.process_streaming(features)) for features in frontend.process_streaming(pcm)) > 0

    return wake
