"""BERT in torch, for weights that others trained.

Shapes: B sentences, T tokens, d hidden values.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.functional import gelu

from build_engines.pretrained.tensors import fill, read_tensors
from edge_runtime.errors import UserError

_HIDDEN = 1e4
"""Subtracted where a token is hidden: far below any score, and still a float16."""


class BertConfig(Struct, frozen=True):
    """What `config.json` of a BERT says of its form; other keys are left alone."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    model_type: Literal["bert"] = "bert"
    position_embedding_type: Literal["absolute"] = "absolute"


class BertLayer(nn.Module):
    """A post-norm Transformer layer (Vaswani et al. 2017, arXiv:1706.03762), written out for a plain graph."""

    def __init__(self, config: BertConfig, dropout: float) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, config.layer_norm_eps) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` [B, T, d]; `bias` [B, 1, 1, T] is added to the scores."""
        rows, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(2, 3) * (self.heads / width) ** 0.5
        mixed = self.dropout((scores + bias).softmax(-1)) @ split(self.value(x))
        x = self.norm1(x + self.dropout(self.out(mixed.transpose(1, 2).reshape(rows, length, width))))
        normed: Tensor = self.norm2(x + self.dropout(self.down(gelu(self.up(x)))))
        return normed


class BertEncoder(nn.Module):
    """ids int32 [B, T] and mask float32 [B, T] to the last layer's hidden values [B, T, d] (Devlin et al. 2018,
    arXiv:1810.04805). All tokens are of the first sentence; T is at most `max_position_embeddings`.

    Its steps are callable by themselves, so that the first of them may be frozen: `embed`, then `attend` over a part of
    `layers`.
    """

    def __init__(self, config: BertConfig, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.types = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList([BertLayer(config, dropout) for _ in range(config.num_hidden_layers)])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.attend(self.embed(ids), mask)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] to what the first layer reads [B, T, d]."""
        placed = self.positions.weight[: ids.shape[1]] + self.types.weight[0]
        embedded: Tensor = self.dropout(self.norm(self.words(ids) + placed))
        return embedded

    def attend(self, x: Tensor, mask: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Hidden values [B, T, d] through `layers[first:last]`; where `mask` [B, T] is 0, no token looks."""
        return self.through(self.layers[first:last], x, mask)

    @staticmethod
    def through(layers: Iterable[nn.Module], x: Tensor, mask: Tensor) -> Tensor:
        """Hidden values [B, T, d] through `layers`; where `mask` [B, T] is 0, no token looks."""
        bias = ((mask - 1) * _HIDDEN).unsqueeze(1).unsqueeze(1)
        for layer in layers:
            x = layer(x, bias)
        return x


def mean_pooled(x: Tensor, mask: Tensor) -> Tensor:
    """Hidden values [B, T, d] to their mean over the tokens of each sentence [B, d], as sentence-transformers pools
    (Reimers and Gurevych 2019, arXiv:1908.10084)."""
    valid = mask.unsqueeze(-1)
    return (x * valid).sum(1) / valid.sum(1).clamp(min=1.0)


def load_bert(folder: Path, dropout: float = 0.1) -> BertEncoder:
    """The BERT that Hugging Face's transformers saved in `folder`: `config.json` and `model.safetensors`, in eval mode.
    Raises UserError where it is none."""
    file = folder / "config.json"
    try:
        config = msgspec.json.decode(file.read_bytes(), type=BertConfig)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); it belongs to the weights") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{file}: is not of a BERT that can be read ({error})") from None
    weights = folder / "model.safetensors"
    encoder = BertEncoder(config, dropout)
    tensors = {name.removeprefix("bert."): value for name, value in read_tensors(weights).items()}
    fill(encoder, tensors, _their_names(config.num_hidden_layers), weights)
    return encoder.eval()


def _their_names(layers: int) -> dict[str, str]:
    """Parameter to what transformers calls it."""
    modules = {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
    }
    within = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(layers):
        modules |= {f"layers.{layer}.{own}": f"encoder.layer.{layer}.{theirs}" for own, theirs in within.items()}
    return {f"{own}.{kind}": f"{theirs}.{kind}" for own, theirs in modules.items() for kind in ("weight", "bias")}
