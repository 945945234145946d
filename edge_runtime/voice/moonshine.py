"""Moonshine (Jeffries et al. 2024, arXiv:2410.15608) on ONNX Runtime, decoded over a grammar's sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.admit import Refusal
from edge_runtime.kinds.audio import SAMPLE_RATE, Sound
from edge_runtime.voice.beam import Found, LogProbabilities, Trie, search
from edge_runtime.voice.grammar import Grammar
from edge_runtime.voice.pack import Pack, PackError
from edge_runtime.voice.pieces import END, START, Pieces
from edge_runtime.voice.recogniser import NOT_IN_GRAMMAR, Heard

WIDTH = 6
"""Beginnings that are followed at once."""
PIECES_PER_S = 13.0
"""Nobody says more; the model's authors give 6.5 words' worth of pieces a second."""
STILL = SAMPLE_RATE // 4
"""Samples of silence behind an utterance: the encoder was trained on whole recordings, and takes an end that is cut
short for the middle of a word."""

SLOWER = (10 / 9, 5 / 4)
"""How slowly a sound is heard again for a word that is the end of its opposite (lock, of unlock), or the other way
about: by the mean of both, lower as they are, Moonshine tells the two apart better than by the sound itself."""
SWALLOWED = 2.5
"""What is added to `min_margin` for such a word, and taken off for its opposite: the syllable before it is easily
swallowed, and then the rest is what was heard."""


class Moonshine:
    """One thread at a time; ONNX Runtime's own threads are as many as asked for."""

    def __init__(
        self,
        pack: Pack,
        grammar: Grammar,
        max_score: float = 1.35,
        min_margin: float = 1.0,
        threads: int = 1,
    ) -> None:
        """`max_score`, `min_margin`: see `transcribe`. Raises PackError, GrammarError."""
        try:
            self._pieces = Pieces(pack.vocabulary)
        except ValueError as error:
            raise PackError(f"voice pack: its vocabulary {error}; fetch it again") from None
        self._trie = Trie(grammar, self._pieces)
        self._opposites = _opposites(grammar)
        self._max_score, self._min_margin = max_score, min_margin
        self._pack, self._threads = pack, threads
        self._sessions: tuple[Any, Any] | None = None

    def ready(self) -> None:
        """Open encoder and decoder, which takes half a second. Raises PackError."""
        if self._sessions is None:
            try:
                self._sessions = (
                    _session(self._pack.encoder, self._threads),
                    _session(self._pack.decoder, self._threads),
                )
            except Exception as error:  # ONNX Runtime raises what it likes
                raise PackError(f"voice pack: does not open ({error}); fetch it again") from None

    def transcribe(self, pcm: Sound) -> Heard | Refusal:
        """The sentence of the grammar that is most probable, unless it is much less so than what is heard without a
        grammar (`max_score`), or not by `min_margin` more so than the same with a word's opposite (see SWALLOWED, too):
        `not_in_grammar`.
        """
        decoding = self._decoding(pcm)
        found = search(self._trie, decoding, WIDTH, _longest(pcm))
        if found is None:
            return Refusal(NOT_IN_GRAMMAR, "no sentence is as short")
        text = self._trie.sentences[found.sentence]
        if found.score > self._max_score:
            return Refusal(NOT_IN_GRAMMAR, f"score {found.score:.2f}, at most {self._max_score:g}: nearest {text!r}")
        margin = found.margin
        for opposite, least in self._opposite_margins(pcm, found, decoding):
            if opposite < least:
                return Refusal(NOT_IN_GRAMMAR, f"margin {opposite:.2f} to its opposite, at least {least:g}: {text!r}")
            margin = min(margin, opposite)
        return Heard(text, "en", found.score, margin if math.isfinite(margin) else None)

    def heard_freely(self, pcm: Sound) -> list[int]:
        """Pieces that are heard without a grammar."""
        step = self._decoding(pcm)
        path: list[int] = []
        rows = step((0,), (START,))
        for _ in range(_longest(pcm)):
            piece = int(rows[0].argmax())
            if piece == END:
                break
            path.append(piece)
            rows = step((0,), (piece,))
        return path

    def _decoding(self, pcm: Sound) -> _Decoding:
        self.ready()
        assert self._sessions is not None
        encoder, decoder = self._sessions
        sound = np.zeros((1, len(pcm) + STILL), np.float32)
        sound[0, : len(pcm)] = pcm / np.float32(32768)
        feeds: dict[str, Any] = {}
        for item in encoder.get_inputs():
            feeds[item.name] = np.ones(sound.shape, np.int64) if "mask" in item.name else sound
        return _Decoding(decoder, encoder.run(None, feeds)[0], sound.shape[1])

    def _opposite_margins(self, pcm: Sound, found: Found, decoding: _Decoding) -> Iterator[tuple[float, float]]:
        """By how much what was found is more probable than the same with a word's opposite, for each, and by how much
        it has to be."""
        own = cache(lambda one: one.probability(found.path))
        slower = cache(lambda: [self._decoding(_slowed(pcm, factor)) for factor in SLOWER])
        for text, word, opposite in _with_opposites(self._pieces.decode(found.path), self._opposites):
            path, least, decodings = self._pieces.encode(text), self._min_margin, [decoding]
            if word.endswith(opposite) or opposite.endswith(word):
                least = least + SWALLOWED if opposite.endswith(word) else max(0.0, least - SWALLOWED)
                decodings = slower()
            yield sum(own(one) - one.probability(path) for one in decodings) / len(decodings), least


def _longest(pcm: Sound) -> int:
    """Pieces that can be said in that time."""
    return 2 + int(PIECES_PER_S * len(pcm) / SAMPLE_RATE)


def _opposites(grammar: Grammar) -> dict[str, tuple[str, ...]]:
    others: dict[str, tuple[str, ...]] = {}
    for group in grammar.opposites:
        for word in group:
            others[word] = (*others.get(word, ()), *(other for other in group if other != word))
    return others


def _slowed(pcm: Sound, factor: float) -> Sound:
    """Lasts `factor` times as long, and is as much lower."""
    count = round(len(pcm) * factor)
    return np.interp(np.arange(count) / factor, np.arange(len(pcm)), pcm).astype(np.int16)


def _with_opposites(text: str, opposites: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str, str]]:
    """`text` with one word in another's place, for each that has an opposite, capitals as they were; that word, and its
    opposite."""
    for found in re.finditer(r"[\w'-]+", text):
        said = found[0].lower()
        for other in opposites.get(said, ()):
            word = other.capitalize() if found[0][0].isupper() else other
            yield text[: found.start()] + word + text[found.end() :], said, other


class _Decoding:
    """The decoder over one utterance, step by step, with what it remembers of each row. See `beam.Step`."""

    def __init__(self, session: Any, encoded: NDArray[np.float32], samples: int) -> None:
        """`encoded` [1, T, D]: what the encoder makes of the sound of so many `samples`."""
        self._session = session
        self._encoded = encoded
        self._outputs = [item.name for item in session.get_outputs()]
        self._inputs = {
            item.name: (item.shape[1], 1, item.shape[3])
            for item in session.get_inputs()
            if item.name.startswith("past_key_values.")
        }
        """What is remembered, to the shape of nothing yet."""
        self._past: dict[str, NDArray[np.float32]] = {}
        self._heard: dict[str, NDArray[np.float32]] = {}
        """What is remembered of the sound: the same for all rows."""
        self._all_heard = np.ones((1, samples), np.int64)
        """Of an utterance alone nothing is padding."""

    def __call__(self, parents: Sequence[int], pieces: Sequence[int]) -> LogProbabilities:
        first = not self._past
        past: dict[str, Any] = {}
        for name, shape in self._inputs.items():
            if first:
                past[name] = np.zeros((len(parents), *shape), np.float32)
            elif name in self._heard:
                past[name] = np.repeat(self._heard[name], len(parents), axis=0)
            else:
                past[name] = self._past[name][list(parents)]
        given = self._run(np.array(pieces, np.int64)[:, None], past, not first)
        for name, value in given.items():
            if name.startswith("present."):
                kept = name.replace("present.", "past_key_values.")
                if ".decoder." in kept:
                    self._past[kept] = value
                elif first:
                    self._heard[kept] = value[:1]
        return _log_softmax(given["logits"][:, -1])

    def probability(self, path: Sequence[int]) -> float:
        """Logarithm of that of `path` and its end, at one go. Remembers nothing."""
        ids = np.array([[START, *path]], np.int64)
        past = {name: np.zeros((1, *shape), np.float32) for name, shape in self._inputs.items()}
        rows = _log_softmax(self._run(ids, past, False)["logits"][0])
        return float(rows[np.arange(len(rows)), [*path, END]].sum())

    def _run(self, ids: NDArray[np.int64], past: dict[str, Any], cached: bool) -> dict[str, NDArray[np.float32]]:
        feeds = {
            "input_ids": ids,
            "encoder_hidden_states": np.repeat(self._encoded, len(ids), axis=0),
            "encoder_attention_mask": np.repeat(self._all_heard, len(ids), axis=0),
            "use_cache_branch": np.array([cached]),
        }
        return dict(zip(self._outputs, self._session.run(None, feeds | past), strict=True))


def _log_softmax(logits: NDArray[np.float32]) -> LogProbabilities:
    """Over the last axis of [rows, pieces]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities: LogProbabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return probabilities


def _session(data: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ORT")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
