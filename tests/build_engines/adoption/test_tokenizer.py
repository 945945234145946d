"""Tokenizers that come with an own text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tokenizers import BertWordPieceTokenizer

from build_engines.foreign.tokenizer import read_tokenizer
from edge_runtime.errors import UserError
from edge_runtime.streams import TextStream
from edge_runtime.tokenizer import load_tokenizer
from tests.build_engines.adoption.test_ordinary_models import (
    I64,
    TEXT,
    F,
    adopted,
    decided,
    file_says,
    graph,
    recipe,
    softmax,
)
from tests.tiny import SENTENCES, tokenizer_model

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def _vocabulary(lower: bool = True) -> list[str]:
    tokenizer = BertWordPieceTokenizer(lowercase=lower)
    texts = [sentence if lower else sentence.title() for sentence in SENTENCES]
    tokenizer.train_from_iterator(texts, vocab_size=200, min_frequency=1, show_progress=False, special_tokens=MARKS)
    return sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)


def _encoder() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["pieces"]),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["types"]),
        helper.make_node("Add", ["pieces", "types"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "axes"], ["logits"], keepdims=0),
    ]
    constants = {
        "table": rng.normal(size=(400, 3)).astype(np.float32),
        "kinds": rng.normal(size=(2, 3)).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    shape = (I64, ("n", "length"))
    return graph(nodes, {"input_ids": shape, "token_type_ids": shape}, {"logits": (F, ("n", 3))}, constants)


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json", "tokenizer.model"])
def test_a_bundle_reads_texts_with_the_encoders_own_tokenizer(tmp_path: Path, file: str) -> None:
    pieces = _vocabulary()
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    whole = BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)}, lowercase=True)
    (tmp_path / "tokenizer.json").write_text(whole.to_str())
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    onnx.save(_encoder(), tmp_path / "net.onnx")
    inputs = {"input_ids": 'source = "stream:text:ids"', "token_type_ids": 'source = "stream:text:types"'}
    bundle, _ = adopted(tmp_path, recipe(inputs, TEXT, more=f'tokenizer = "{file}"\n'))
    kind = "sentencepiece" if file == "tokenizer.model" else "huggingface"
    spec = bundle.manifest.streams["text"]
    assert isinstance(spec, TextStream) and spec.tokenizer == kind
    sentence = f"{SENTENCES[0]}!"
    if kind == "huggingface":
        whole.enable_truncation(6)
        whole.enable_padding(length=6)
        ids = whole.encode(sentence).ids
        assert (ids[0], len(ids)) == (pieces.index("[CLS]"), 6)
    else:
        ids = list(load_tokenizer(kind, tokenizer_model()).lay_out(sentence, 6).ids)
    rows = np.array([ids], np.int64)
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input_ids=rows, token_type_ids=np.zeros_like(rows)))
    assert decided(bundle, text=sentence) == pytest.approx(expected, abs=1e-5)


def test_capitals_are_kept_where_the_vocabulary_has_them_or_its_configuration_says_so(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"

    def same(first: str, second: str) -> bool:
        tokenizer = load_tokenizer(*read_tokenizer(path))
        return tokenizer.encode(first) == tokenizer.encode(second)

    word = SENTENCES[0].split()[0]
    path.write_text("\n".join(_vocabulary()))
    assert same(word, word.upper())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert not same(word, word.upper())
    (tmp_path / "tokenizer_config.json").unlink()
    path.write_text("\n".join(_vocabulary(lower=False)))
    assert not same(word.title(), word.upper())


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("vocab.txt", b"red\ngreen\n", r"the vocabulary has no \[UNK\]; only BERT's WordPiece"),
        ("vocab.txt", b"\xff\xfe", "is no vocabulary"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.model", b"words", "not a SentencePiece model"),
    ],
)
def test_what_is_no_tokenizer_is_one_line(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=message) as refused:
        read_tokenizer(tmp_path / name)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_tokenizer(tmp_path / "missing.txt")
