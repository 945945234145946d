"""Train the SentencePiece model that goes into the bundle."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from build_engines.data import capitals
from build_engines.modalities.text.recipe import TokenizerRecipe
from build_engines.modalities.text.shelf import own_tokenizer
from build_engines.recipe import Recipe
from edge_runtime.errors import UserError
from edge_runtime.preprocess import text_tensors, word_grid
from edge_runtime.streams import TextStream, streams_of
from edge_runtime.tokenizer import load_tokenizer


def train_tokenizer(recipe: TokenizerRecipe, sentences: Iterable[str]) -> bytes:
    """A unigram model with byte fallback: no sentence in any script can produce an unknown piece.

    Width is folded, and case too unless the recipe keeps or marks it. Deterministic for the same sentences.
    Raises UserError.
    """
    if recipe.mark_capitals:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rules.tsv"
            file.write_text(capitals.rules(), encoding="ascii")
            # No mark of the word's start: it would stand before a capital's mark, and apart from the letters.
            return _train(
                recipe, sentences, normalization_rule_tsv=str(file), user_defined_symbols=[capitals.MARK],
                add_dummy_prefix=False,
            )  # fmt: skip
    return _train(recipe, sentences, normalization_rule_name="nmt_nfkc" if recipe.keep_case else "nmt_nfkc_cf")


def _train(recipe: TokenizerRecipe, sentences: Iterable[str], **settings: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=buffer,
            vocab_size=recipe.vocabulary,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=recipe.coverage,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **settings,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[-1]
        raise UserError(
            f"tokenizer.vocabulary is {recipe.vocabulary}: SentencePiece cannot train it ({reason})"
        ) from None
    return buffer.getvalue()


def tokenizer_of(recipe: Recipe, sentences: Iterable[str]) -> bytes:
    """That of the recipe's text encoder: its own where others trained it, else one trained on `sentences`. Raises
    UserError."""
    text = recipe.model.text
    if text is not None and text.kind == "pretrained":
        return own_tokenizer(text)
    return train_tokenizer(recipe.tokenizer, sentences)


class SentenceEncoder(Protocol):
    """Makes of sentences what a text encoder reads."""

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """ids and mask, [n, L] each, as the device's `text_tensors` lays them out."""
        ...


def sentence_encoder(recipe: Recipe, model: bytes, sampling: bool = True) -> SentenceEncoder:
    """For the recipe's text encoder; with `sampling` words are cut differently in each epoch, where the recipe says so
    and the tokenizer was trained here."""
    text = recipe.model.text
    assert text is not None
    spec = streams_of(recipe.streams, TextStream)[text.stream]
    if text.kind == "pretrained":
        return PlainEncoder(model, spec)
    return SamplingEncoder(model, spec, recipe.tokenizer.sampling_alpha if sampling else 0.0, recipe.seed)


class PlainEncoder:
    """Encodes sentences as the device does, each once."""

    def __init__(self, model: bytes, spec: TextStream) -> None:
        self._tokenizer, self._spec = load_tokenizer(spec.tokenizer, model), spec
        self._known: dict[str, tuple[NDArray[np.generic], NDArray[np.generic]]] = {}

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """ids and mask, [n, L] each."""
        for sentence in sentences:
            if sentence not in self._known:
                tensors = text_tensors(self._spec, self._tokenizer, sentence)
                self._known[sentence] = tensors["ids"][0], tensors["mask"][0]
        rows = [self._known[sentence] for sentence in sentences]
        shape = (len(rows), self._spec.max_tokens)
        ids = np.array([ids for ids, _ in rows], np.int32).reshape(shape)
        return ids, np.array([mask for _, mask in rows], np.float32).reshape(shape)


CANDIDATES = 64
"""Segmentations kept per sentence for sampling."""


class SamplingEncoder:
    """Encodes sentences for training, with subword sampling: each epoch cuts the words differently.

    Draws among the 64 most probable segmentations with probability proportional to p ** alpha (Kudo 2018,
    arXiv:1804.10959, section 3.2), by its own generator: the library's sampler differs from process to process.
    """

    def __init__(self, model: bytes, spec: TextStream, alpha: float, seed: int) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._spec = spec
        self._length = spec.max_tokens
        self._alpha = alpha
        self._rng = np.random.default_rng(seed)
        self._segmentations: dict[str, tuple[list[list[int]], NDArray[np.float64]]] = {}

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """ids and mask, [n, L] each, as the device's `text_tensors` lays them out."""
        ids = np.zeros((len(sentences), self._length), np.int32)
        mask = np.zeros((len(sentences), self._length), np.float32)
        for row, sentence in enumerate(sentences):
            pieces = self._draw(sentence)[: self._length]
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1.0
        return ids, mask

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """ids and mask, [n, W, P] each, as the device lays out the words of a sentence; W is that of the longest."""
        unknown = [int(self._processor.unk_id())]
        grids = [word_grid(self._spec, [self._draw(word) or unknown for word in words]) for words in sentences]
        longest = max(1, *(min(len(words), self._length) for words in sentences))
        return np.stack([ids[:longest] for ids, _ in grids]), np.stack([mask[:longest] for _, mask in grids])

    def _draw(self, sentence: str) -> list[int]:
        if self._alpha == 0 or not sentence:
            best: list[int] = self._processor.EncodeAsIds(sentence)
            return best
        if sentence not in self._segmentations:
            segmentations = self._processor.NBestEncodeAsIds(sentence, CANDIDATES)
            scores = np.array([sum(map(self._processor.GetScore, pieces)) for pieces in segmentations])
            chances = np.exp(self._alpha * (scores - scores.max()))
            self._segmentations[sentence] = (segmentations, np.cumsum(chances / chances.sum()))
        candidates, steps = self._segmentations[sentence]
        return candidates[min(int(np.searchsorted(steps, self._rng.random())), len(candidates) - 1)]
