"""The tokenizer that somebody else's text encoder was trained with, as the bundle holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from build_engines.foreign.read import first_line
from edge_runtime.errors import BundleError, UserError
from edge_runtime.streams import StreamSpec, TextStream
from edge_runtime.tokenizer import load_tokenizer

CONFIG = "tokenizer_config.json"
"""Beside a vocabulary: what Hugging Face knows of it."""


def read_tokenizer(path: Path) -> tuple[str, bytes]:
    """Kind and bytes of the tokenizer in `path`: a SentencePiece model, a `tokenizer.json`, or a WordPiece vocabulary
    (a text file with a piece per line), which becomes a `tokenizer.json`. Raises UserError.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the tokenizer's path") from None
    kind = _kind(path, raw)
    if kind == "huggingface" and path.suffix == ".txt" and not _is_json(raw):
        raw = _of_vocabulary(path, raw)
    try:
        load_tokenizer(kind, raw)
    except BundleError as error:
        raise UserError(f"{path}: {first_line(error)}") from None
    return kind, raw


def kind_of_file(path: Path) -> str:
    """What a stream calls the tokenizer in `path`, whether it can be read or not."""
    try:
        with path.open("rb") as file:
            return _kind(path, file.read(64))
    except OSError:
        return "sentencepiece"


def _kind(path: Path, raw: bytes) -> str:
    return "huggingface" if _is_json(raw) or path.suffix == ".txt" else "sentencepiece"


def _is_json(raw: bytes) -> bool:
    return raw.lstrip()[:1] == b"{"


def with_tokenizer(streams: Mapping[str, StreamSpec], kind: str) -> dict[str, StreamSpec]:
    """`streams` with their texts read by a tokenizer of that kind."""
    return {
        name: msgspec.structs.replace(spec, tokenizer=kind) if isinstance(spec, TextStream) else spec
        for name, spec in streams.items()
    }


def _of_vocabulary(path: Path, raw: bytes) -> bytes:
    """BERT's WordPiece with that vocabulary (Devlin et al. 2019, arXiv:1810.04805): `[CLS] text [SEP]`. Capitals and
    accents are kept where `tokenizer_config.json` beside it says so, or, without one, where a piece has a capital.
    """
    try:
        pieces = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no vocabulary; a text file with a piece per line is expected") from None
    missing = [mark for mark in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if mark not in pieces]
    if missing:
        raise UserError(f"{path}: the vocabulary has no {missing[0]}; only BERT's WordPiece is read from one")
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError:
        raise UserError("a vocabulary needs the package tokenizers; install it: pip install tokenizers") from None
    settings = _config(path.with_name(CONFIG))
    has_capitals = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    lower = bool(settings.get("do_lower_case", not has_capitals))
    made = BertWordPieceTokenizer(
        {piece: number for number, piece in enumerate(pieces)},
        lowercase=lower,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    text: str = made.to_str()
    return text.encode()


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); mend it or take it away") from None
    return read if isinstance(read, dict) else {}
