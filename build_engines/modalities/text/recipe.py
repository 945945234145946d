"""The keys of `[model.text]` and `[tokenizer]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction, NotNegative
from build_engines.pretrained.recipe import PretrainedKeys
from edge_runtime.specs import Count


class TextRecipe(PretrainedKeys, Struct, frozen=True, forbid_unknown_fields=True):
    """An encoder of token ids: features of the sentence, or of every word for a tagging head, which `words` and
    `pretrained` give."""

    stream: str
    """The stream that it reads."""
    kind: Literal["conv", "transformer", "words", "pretrained"] = "conv"
    """Convolutions, a transformer, an encoder of each word for a tagging head, or a network that others trained, of
    `package` or `file`, with its own tokenizer."""
    width: Count = 64
    """Of a piece's embedding."""
    layers: Count = 1
    """How many."""
    heads: Count = 4
    """Of the transformer's attention."""
    dropout: Fraction = 0.3
    """Share of values that is dropped while training."""
    token_dropout: Fraction = 0.1
    """Chance of hiding a token while training."""
    tokenizer: str = ""
    """Of a network in `file`: a SentencePiece model, a `tokenizer.json` of Hugging Face or a WordPiece vocabulary
    (`vocab.txt`), relative to the recipe; empty = the one beside `file`."""
    pool: Literal["mean", "first"] = "mean"
    """Of a network in `file` that gives hidden values for each piece: a sentence is their mean, or those of the
    first."""
    lexicon: Literal["", "english"] = ""
    """For kind `words`: lists of words that the encoder learns, as `train.lexicon` says."""
    aux: dict[str, Annotated[int, Meta(ge=2)]] = {}
    """Auxiliary label (`dataset.aux`) to how many classes it has: learned from this modality alone, beside the first
    head."""
    aux_in_features: bool = False
    """Give the auxiliary labels' probabilities to the fusion, as part of the features."""

    @property
    def streams(self) -> tuple[str, ...]:
        return (self.stream,)


class TokenizerRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """SentencePiece, trained on the training sentences."""

    vocabulary: Annotated[int, Meta(ge=300, le=64000)] = 1000
    """Pieces to learn."""
    coverage: Annotated[float, Meta(ge=0.9, le=1)] = 0.9995
    """Share of the training text's letters that pieces must cover; the rest becomes the unknown piece."""
    sampling_alpha: NotNegative = 0.0
    """Smoothness of subword sampling while training (Kudo 2018, arXiv:1804.10959); 0 = off."""
    keep_case: bool = False
    """Tell capitals from small letters, as names need."""
    mark_capitals: bool = False
    """Tell them by a mark before the same small letter, so that pieces are shared; for words encoded one by one."""
