from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from build_engines.modalities.text.bert import BertConfig, BertEncoder
from build_engines.modalities.text.sentence_words import SentenceWordEncoder
from build_engines.model.export import EncoderStage, StageExport, to_onnx
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.preprocess import word_row
from edge_runtime.specs import TextStream

SPEC = TextStream(6, 1000, word_pieces=4, sentence_pieces=16, tokenizer="huggingface")
FIELDS = ("ids", "mask", "words", "starts", "letters")


class Letters:
    """A piece for each letter, capitals folded, between marks."""

    size = 60
    marks = ([40], [41])

    def encode(self, text: str) -> list[int]:
        return [ord(char.lower()) - 96 for char in text]

    def encode_words(self, words: list[str]) -> list[list[int]]:
        return [self.encode(word) for word in words]


def rows(*sentences: str) -> list[Tensor]:
    made = [word_row(SPEC, Letters(), sentence.split()) for sentence in sentences]  # type: ignore[arg-type]
    return [torch.from_numpy(np.stack([row[field] for row in made])) for field in FIELDS]


@pytest.fixture
def encoder() -> SentenceWordEncoder:
    torch.manual_seed(0)
    return SentenceWordEncoder(BertEncoder(BertConfig(24, 2, 4, 48, 60, 16)), 0.0, 0.0, 8).eval()


@torch.no_grad()
def test_at_first_a_word_is_what_the_pretrained_layers_give_at_its_first_piece(encoder: SentenceWordEncoder) -> None:
    ids, mask, words, starts, letters = rows("ab c", "def")
    seen: list[Tensor] = []
    encoder.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(ids, mask, words, starts, letters)
    hidden = encoder.pretrained(ids, mask)
    assert starts[0].tolist()[:2] == [1, 3]
    assert torch.equal(seen[0][0, :2, :24], hidden[0, [1, 3]])
    assert torch.equal(seen[0][1, 0, :24], hidden[1, 1])


@torch.no_grad()
def test_capitals_that_the_pieces_lack_are_seen_by_the_word_and_once_learned_by_its_neighbours(
    encoder: SentenceWordEncoder,
) -> None:
    small, capital = rows("ab c"), rows("Ab c")
    assert torch.equal(small[0], capital[0])
    before, after = encoder(*small)[0], encoder(*capital)[0]
    assert not torch.allclose(before[0, 0], after[0, 0]) and torch.equal(before[0, 1], after[0, 1])
    encoder.early.weight.normal_(std=0.3)
    assert not torch.allclose(encoder(*small)[0][0, 1], encoder(*capital)[0][0, 1])


@torch.no_grad()
def test_places_without_a_word_are_0_and_padding_changes_nothing(encoder: SentenceWordEncoder) -> None:
    encoder.early.weight.normal_(std=0.3)
    ids, mask, words, starts, letters = rows("ab c d")
    features = encoder(ids, mask, words, starts, letters)[0]
    assert not features[0, 3:].any()
    length = int(mask.sum())
    short = encoder(ids[:, :length], mask[:, :length], words[:, :length], starts[:, :3], letters[:, :3])[0]
    assert torch.allclose(features[:, :3], short, atol=1e-5)


def test_hidden_words_are_drawn_while_training_only_and_the_embedding_table_stays(encoder: SentenceWordEncoder) -> None:
    encoder.token_dropout = 0.5
    fed = rows("ab c d")
    assert torch.equal(encoder(*fed)[0], encoder(*fed)[0])
    encoder.train()
    encoder.pretrained.eval()
    drawn = [encoder(*fed)[0] for _ in range(8)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])
    drawn[0].sum().backward()  # type: ignore[no-untyped-call]
    learns = {name for name, value in encoder.named_parameters() if value.grad is not None}
    assert "pretrained.words.weight" not in learns and "pretrained.layers.0.query.weight" in learns


def test_the_graph_computes_what_torch_computes(encoder: SentenceWordEncoder) -> None:
    import onnxruntime

    with torch.no_grad():
        encoder.early.weight.normal_(std=0.3)
    fed = dict(zip(FIELDS, rows("Ab c d"), strict=True))
    graph = to_onnx(StageExport("text", EncoderStage(encoder), fed, ("features",)))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), session_options(1), ["CPUExecutionProvider"])
    (actual,) = session.run(None, {name: value.numpy() for name, value in fed.items()})
    with torch.no_grad():
        assert np.allclose(actual, encoder(*fed.values())[0].numpy(), atol=1e-5)
