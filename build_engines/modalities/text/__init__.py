"""Sentences as token ids; for a tagging head, as words and their pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from build_engines.modalities.faults import Fault, each_message
from build_engines.modalities.modality import Input, Modality, SampleRow
from build_engines.modalities.text.faults import WORD_ERRORS, Misheard
from build_engines.modalities.text.recipe import TextRecipe
from build_engines.modalities.text.shelf import text_origin, tokenizer_files
from build_engines.pretrained.shelf import Origin, holds_network, network_files, problem_of
from calibration.moments import RawMessage
from edge_runtime.messages import Words
from edge_runtime.specs import TextStream
from edge_runtime.streams import StreamSpec, streams_of

if TYPE_CHECKING:
    from torch import nn

BY_WORD = {"ids": "NWP SentencePiece ids of each word, 0 beyond its end", "mask": "NWP 1 = a piece"}


def tokenizer_kind(streams: Mapping[str, StreamSpec]) -> str:
    """What reads the texts of `streams`: all have one tokenizer."""
    return next((spec.tokenizer for spec in streams_of(streams, TextStream).values()), "sentencepiece")


class Text(Modality[TextRecipe, TextStream]):
    """In a row: `text`, and `lang` where it is known."""

    spec = TextStream
    recipe = TextRecipe
    field = "text"
    inputs = {  # noqa: RUF012  # never changed
        "ids": Input("NL SentencePiece ids, 0 beyond the end", "ids"),
        "mask": Input("NL 1 = a piece", "text_mask"),
        "words": Input("NL number of the word that a piece belongs to, from 1; 0 = a mark or padding", "piece_words"),
        "starts": Input("NW place of each word's first piece; 0 = no word", "word_starts"),
        "letters": Input("NWC each character as preprocess.letter numbers it, 0 beyond the word's end", "word_letters"),
    }

    def problem(self, recipe: TextRecipe) -> str | None:
        if problem := problem_of(recipe, "model.text", recipe.kind == "pretrained"):
            return problem
        if (recipe.tokenizer or recipe.pool != "mean") and not holds_network(recipe):
            name = "tokenizer" if recipe.tokenizer else "pool"
            return f"model.text.{name} is for a network of its own in file (ONNX or TorchScript); leave it out"
        return None

    def origin(self, recipe: TextRecipe) -> Origin | None:
        return text_origin(recipe) if recipe.kind == "pretrained" else None

    def files(self, recipe: TextRecipe) -> tuple[Path, ...]:
        return (*network_files(recipe), *tokenizer_files(recipe))

    def network(self, recipe: TextRecipe, spec: TextStream, vocabulary: int, features: int) -> nn.Module:
        if recipe.kind == "pretrained" and holds_network(recipe):
            from build_engines.modalities.text.sentence import graph_sentence

            return graph_sentence(recipe, spec, features)
        if recipe.kind == "pretrained" and spec.sentence_pieces:
            from build_engines.modalities.text.sentence_words import pretrained_words

            return pretrained_words(recipe, features)
        if recipe.kind == "pretrained":
            from build_engines.modalities.text.sentence import pretrained_sentence

            return pretrained_sentence(recipe, spec.max_tokens, features)
        from build_engines.modalities.text.network import TextEncoder
        from build_engines.modalities.text.word_network import WordEncoder

        encoder = WordEncoder if recipe.kind == "words" else TextEncoder
        return encoder(recipe, spec.max_tokens, vocabulary, features)

    def layout(self, field: str, shape: tuple[int, ...]) -> str:
        return BY_WORD[field] if len(shape) == 3 and field in BY_WORD else super().layout(field, shape)

    def messages(self, name: str, spec: TextStream, row: SampleRow) -> Iterator[RawMessage]:
        if text := row.fields.text(row.field):
            yield RawMessage(name, row.at_ns, Words(text, row.fields.text("lang") or None))

    def faults(self, name: str, spec: TextStream, tagged: bool) -> dict[str, Fault]:
        if spec.word_pieces:
            return {}  # a tag per word: with other words, other tags would be right, and nobody says which
        return {f"{WORD_ERRORS:.0%} of words wrong": each_message(name, partial(Misheard, same_count=tagged))}
