"""Whole sentences through a network that others trained.

Shapes: B sentences, L pieces, w hidden values, d features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from build_engines.modalities.graph_encoder import GraphEncoder
from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.modalities.text.bert import BertEncoder, load_bert, mean_pooled
from build_engines.modalities.text.recipe import TextRecipe
from build_engines.modalities.text.shelf import text_origin
from build_engines.modalities.text.use import WIDTH, load_use
from build_engines.pretrained.network_file import Plan, load_network
from build_engines.pretrained.shelf import Origin
from edge_runtime.errors import UserError
from edge_runtime.specs import TextStream


class SentenceNetwork(Protocol):
    """A network of sentences in two parts, of which the first stays as it is."""

    width: int
    """w: what it says of a sentence."""
    frozen: nn.Module
    unfrozen: nn.Module

    def first(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids int32 and mask float32 [B, L] to what `frozen` makes of them [B, ...]."""

    def rest(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What `first` gave to the sentence [B, w]."""


class _Bert:
    """The mean of a BERT's last layer over the pieces; its last `unfreeze` layers learn on."""

    def __init__(self, origin: Origin, pieces: int, unfreeze: int) -> None:
        bert = load_bert(origin.weights.parent, 0.0)
        layers = len(bert.layers)
        if unfreeze > layers:
            raise UserError(f"model.text.unfreeze is {unfreeze}; the network has {layers} layers")
        if pieces > bert.config.max_position_embeddings:
            raise UserError(
                f"the text stream's max_tokens is {pieces}; the network reads {bert.config.max_position_embeddings}"
            )
        self.width = bert.config.hidden_size
        self.unfrozen: nn.Module = nn.ModuleList(list(bert.layers)[layers - unfreeze :])
        bert.layers = nn.ModuleList(list(bert.layers)[: layers - unfreeze])
        self._bert = bert
        self.frozen: nn.Module = bert

    def first(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self._bert(ids, mask)
        return hidden if len(self.unfrozen) else mean_pooled(hidden, mask)  # type: ignore[arg-type]

    def rest(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if not len(self.unfrozen):  # type: ignore[arg-type]
            return hidden
        return mean_pooled(BertEncoder.through(self.unfrozen, hidden, mask), mask)  # type: ignore[arg-type]


class _Use:
    """The universal sentence encoder; all of it stays."""

    def __init__(self, origin: Origin, pieces: int, unfreeze: int) -> None:
        if unfreeze:
            raise UserError(f"model.text.unfreeze is {unfreeze}; this network's table is in INT8 and cannot learn: 0")
        self.width = WIDTH
        self.frozen: nn.Module = load_use(origin.weights)
        self.unfrozen: nn.Module = nn.ModuleList()

    def first(self, ids: Tensor, mask: Tensor) -> Tensor:
        said: Tensor = self.frozen(ids, mask)
        return said

    def rest(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden


_NETWORKS: dict[str, Callable[[Origin, int, int], SentenceNetwork]] = {"bert": _Bert, "use": _Use}


class PretrainedSentence(PretrainedEncoder):
    """ids int32 [B, L] and mask float32 [B, L] to features [B, d]: a projection of what the network says."""

    def __init__(self, recipe: TextRecipe, origin: Origin, pieces: int, features: int) -> None:
        super().__init__(origin, recipe.views, recipe.unfreeze_rate)
        self._network: SentenceNetwork = _NETWORKS[origin.network](origin, pieces, recipe.unfreeze)
        self._frozen, self._unfrozen = self._network.frozen, self._network.unfrozen
        self._freeze()
        width = self._network.width
        self.head = FeatureHead(width, features, recipe.aux, recipe.aux_in_features, recipe.dropout)

    def kept(self, *inputs: Tensor) -> Tensor:
        """[B, w], or [B, L, w] where layers learn on."""
        ids, mask = inputs
        with torch.no_grad():
            return self._network.first(ids, mask)

    def finish(self, kept: Tensor, *inputs: Tensor) -> Encoded:
        encoded: Encoded = self.head(self._network.rest(kept, inputs[1]))
        return encoded


def pretrained_sentence(recipe: TextRecipe, pieces: int, features: int) -> PretrainedSentence:
    """The encoder that the recipe's keys ask for. Raises UserError where its weights are not there."""
    return PretrainedSentence(recipe, text_origin(recipe), pieces, features)


def graph_sentence(recipe: TextRecipe, spec: TextStream, features: int) -> GraphEncoder:
    """The encoder around the network in the recipe's file, for texts as `spec` has them. Raises UserError."""
    if spec.word_pieces:
        raise UserError(
            "model.text.file: a tagging head reads a word's own hidden values, for which the network must be known: "
            "weights with network = 'bert'"
        )
    origin = text_origin(recipe)
    network = load_network(origin.weights, origin.sha256, Plan(recipe.output, recipe.pool), spec)
    return GraphEncoder(
        origin, network, recipe, "model.text", features, recipe.aux, recipe.aux_in_features, recipe.dropout
    )
