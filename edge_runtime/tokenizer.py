"""Text to the pieces that a model was trained on: SentencePiece models, and the `tokenizer.json` of Hugging Face.

Loaded from a bundle's verified bytes. The library behind `tokenizer.json` is imported only where a bundle has one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sentencepiece

from edge_runtime.errors import BundleError

TOKENIZER = "tokenizer.model"
"""The bundle's file that holds a SentencePiece model."""
TOKENIZER_JSON = "tokenizer.json"
"""The bundle's file that holds a Hugging Face tokenizer."""
FILES = {"sentencepiece": TOKENIZER, "huggingface": TOKENIZER_JSON}
"""What a text stream says of its tokenizer, to the file."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text as a model reads it, all of one length."""

    ids: Sequence[int]
    mask: Sequence[int]
    """1 = of the text or one of its marks, 0 = padding."""
    types: Sequence[int]
    """Sentence numbers, 0 where a tokenizer knows none."""


class Tokenizer(Protocol):
    """What makes pieces of text. Any thread."""

    @property
    def size(self) -> int:
        """Number of pieces: ids are below it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Piece ids of `text`, without begin and end marks."""
        ...

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Piece ids of each word by itself; a word that normalises to nothing is the unknown piece."""
        ...

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """Piece ids that the model was trained to see before and after a sentence."""
        ...

    def lay_out(self, text: str, length: int) -> Pieces:
        """`text` in `length` pieces: with the marks that the model was trained with, cut off or padded."""
        ...


class SentencePieceTokenizer:
    """SentencePiece (Kudo & Richardson 2018, arXiv:1808.06226). No marks; padded behind with 0. Any thread."""

    def __init__(self, model: bytes) -> None:
        """Raises BundleError."""
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise BundleError(f"tokenizer.model: not a SentencePiece model ({error}); rebuild the bundle") from None

    @property
    def size(self) -> int:
        return int(self._processor.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        unknown = [int(self._processor.unk_id())]
        encoded: list[list[int]] = self._processor.EncodeAsIds(list(words))
        return [pieces or unknown for pieces in encoded]

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        return [], []

    def lay_out(self, text: str, length: int) -> Pieces:
        ids = self.encode(text)[:length]
        rest = [0] * (length - len(ids))
        return Pieces(ids + rest, [1] * len(ids) + rest, [0] * length)


class HuggingFaceTokenizer:
    """A `tokenizer.json` (https://huggingface.co/docs/tokenizers): normaliser, model, marks, types, the side that is
    cut off and the side and piece that pad are the file's; the length is the stream's, or the file's where that is
    shorter. Any thread.
    """

    def __init__(self, model: bytes) -> None:
        """Raises BundleError where it is none, or the library is not installed."""
        try:
            import tokenizers
        except ImportError:
            raise BundleError(
                "tokenizer.json needs the package tokenizers; install it: pip install 'edge-runtime[tokenizers]'"
            ) from None
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(model.decode())
        except Exception as error:  # the library raises bare Exceptions
            raise BundleError(f"tokenizer.json: not a tokenizer ({error}); rebuild the bundle") from None
        cut: dict[str, Any] = dict(self._tokenizer.truncation or {})
        pad: dict[str, Any] = dict(self._tokenizer.padding or {})
        # Cut off and filled up is by hand, as the library does it: it keeps such settings for all that is encoded.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._longest = int(cut.get("max_length", sys.maxsize))
        self._cut = str(cut.get("direction", "right")).lower()
        token = str(pad.get("pad_token", self._known("[PAD]", "<pad>", "<|endoftext|>") or "[PAD]"))
        self._pad = {
            "direction": str(pad.get("direction", "right")).lower(),
            "pad_id": int(pad.get("pad_id", self._tokenizer.token_to_id(token) or 0)),
            "pad_type_id": int(pad.get("pad_type_id", 0)),
            "pad_token": token,
        }

    @property
    def size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        unknown = [self._id_of("[UNK]", "<unk>")]
        encoded = self._tokenizer.encode_batch(list(words), add_special_tokens=False)
        return [list(pieces.ids) or unknown for pieces in encoded]

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        made = self._tokenizer.encode("a")
        text = [place for place, special in enumerate(made.special_tokens_mask) if not special] or [len(made.ids)]
        return list(made.ids[: text[0]]), list(made.ids[text[-1] + 1 :])

    def lay_out(self, text: str, length: int) -> Pieces:
        made = self._tokenizer.encode(text, add_special_tokens=False)
        room = min(length, self._longest) - self._tokenizer.num_special_tokens_to_add(False)
        made.truncate(max(0, room), stride=0, direction=self._cut)
        made = self._tokenizer.post_process(made, None, True)
        made.pad(length, **self._pad)
        return Pieces(made.ids, made.attention_mask, made.type_ids)

    def _known(self, *tokens: str) -> str | None:
        return next((token for token in tokens if self._tokenizer.token_to_id(token) is not None), None)

    def _id_of(self, *tokens: str) -> int:
        known = self._known(*tokens)
        return 0 if known is None else int(self._tokenizer.token_to_id(known))


KINDS: dict[str, type[SentencePieceTokenizer] | type[HuggingFaceTokenizer]] = {
    "sentencepiece": SentencePieceTokenizer,
    "huggingface": HuggingFaceTokenizer,
}
"""What a text stream says of its tokenizer, to what reads the file."""


def load_tokenizer(kind: str, model: bytes) -> Tokenizer:
    """The tokenizer of that kind. Raises BundleError."""
    return KINDS[kind](model)
