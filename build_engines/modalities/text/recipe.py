"""The keys of `[model.text]` and `[tokenizer]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction, NotNegative
from edge_runtime.specs import Count


class TextRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """An encoder of token ids; `words` gives features per word, for a tagging head."""

    stream: str
    kind: Literal["conv", "transformer", "words"] = "conv"
    width: Count = 64
    layers: Count = 1
    heads: Count = 4
    dropout: Fraction = 0.3
    token_dropout: Fraction = 0.1
    """Chance of hiding a token while training."""
    lexicon: Literal["", "english"] = ""
    """For kind `words`: lists of words that the encoder learns, as `train.lexicon` says."""
    aux: dict[str, Annotated[int, Meta(ge=2)]] = {}
    aux_in_features: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        return (self.stream,)


class TokenizerRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """SentencePiece, trained on the training sentences."""

    vocabulary: Annotated[int, Meta(ge=300, le=64000)] = 1000
    coverage: Annotated[float, Meta(ge=0.9, le=1)] = 0.9995
    sampling_alpha: NotNegative = 0.0
    """Smoothness of subword sampling while training (Kudo 2018, arXiv:1804.10959); 0 = off."""
    keep_case: bool = False
    """Tell capitals from small letters, as names need."""
    mark_capitals: bool = False
    """Tell them by a mark before the same small letter, so that pieces are shared; for words encoded one by one."""
