"""The text encoder of a tagging head on weights that others trained: features for every word, read in its sentence.

Shapes: B sentences, L pieces, W words, C letters of a word, d features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from build_engines.modalities.text.bert import BertEncoder, load_bert
from build_engines.modalities.text.recipe import TextRecipe
from build_engines.modalities.text.shelf import text_origin
from edge_runtime.errors import UserError
from edge_runtime.preprocess import LATIN, LETTER_KINDS

WIDTH, FILTERS, LATE = 32, 128, 128
"""Values of a letter, of the convolution over letters, and of a word's letters beside its features."""
_KINDS = (str.isupper, str.islower, str.isdigit, lambda char: not char.isalnum(), lambda char: True)
_BEYOND = ((1, 0, 0, 0, 1), (0, 1, 0, 0, 1), (0, 0, 1, 0, 1), (0, 0, 0, 0, 1), (0, 0, 0, 1, 1))
"""The same for what `preprocess.letter` gives beyond Latin."""


class SentenceWordEncoder(nn.Module):
    """ids int32 [B, L], mask float32 [B, L], words int32 [B, L], starts int32 [B, W] and letters int32 [B, W, C], as
    `preprocess.word_row` gives them, to features [B, W, d].

    A word's features are the last layer's at its first piece (Devlin et al. 2018, arXiv:1810.04805, section 5.3).
    Encoders that fold capitals do not see how a word is written; so each word's letters are read too (a convolution
    of three and its maximum, Ma and Hovy 2016, arXiv:1603.01354; their mean; the first), and added to what the first
    layer reads of each of its pieces, and once more at the end. At first they add nothing before the first layer: the
    encoder starts as it was trained.
    """

    def __init__(
        self, pretrained: BertEncoder, dropout: float, token_dropout: float, features: int,
        unfreeze: int | None = None, rate: float = 0.1,
    ) -> None:  # fmt: skip
        """The last `unfreeze` layers of `pretrained` learn on, all where None; at `rate`, a part of the rest's."""
        super().__init__()
        width = pretrained.config.hidden_size
        self.pretrained = pretrained
        layers = pretrained.layers
        self._learning = layers if unfreeze is None else layers[len(layers) - unfreeze :]
        self.rate = rate
        # Embeddings stay: words that training lacks remain comparable with those that it has.
        self.pretrained.requires_grad_(False)
        self._learning.requires_grad_(True)
        self.token_dropout = token_dropout
        self.dropout = nn.Dropout(dropout)
        self.letters = nn.Embedding(LETTER_KINDS, WIDTH)
        nn.init.normal_(self.letters.weight, std=0.3)
        with torch.no_grad():
            self.letters.weight[:, : len(_KINDS)] = _letter_kinds()
            self.letters.weight[0] = 0.0
        self.spelling = nn.Conv1d(WIDTH, FILTERS, 3, padding=1)
        self.spelled = nn.Linear(FILTERS + 2 * WIDTH, width)
        self.early = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.early.weight)
        self.late = nn.Linear(width, LATE)
        self.project = nn.Linear(width + LATE, features)

    def forward(
        self, ids: Tensor, mask: Tensor, words: Tensor, starts: Tensor, letters: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features, and no auxiliary logits: every word is labelled as it is."""
        spelled = self._spelled(letters.flatten(0, 1)).reshape(*starts.shape, -1)
        # Row 0 is of no word: marks and padding.
        by_word = torch.cat([torch.zeros_like(spelled[:, :1]), self.early(spelled)], 1)
        read = self.pretrained.embed(ids) + _rows(by_word, words)
        if self.training and self.token_dropout > 0:
            shown = (
                (torch.rand(by_word.shape[:2], device=read.device) >= self.token_dropout).to(read.dtype).unsqueeze(-1)
            )
            shown[:, 0] = 1.0
            read, spelled = read * _rows(shown, words), spelled * shown[:, 1:]
        hidden = self.pretrained.attend(read, mask)
        at_words = torch.cat([_rows(hidden, starts), relu(self.late(spelled))], -1)
        features = relu(self.project(self.dropout(at_words)))
        return features * (starts > 0).unsqueeze(-1).to(features.dtype), {}

    def slow_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the pretrained layers that learn on."""
        return self._learning.parameters()

    def _spelled(self, letters: Tensor) -> Tensor:
        """[N, C] to what a word's letters say [N, width]."""
        read = self.letters(letters)
        there = (letters > 0).unsqueeze(-1).to(read.dtype)
        read = read * there
        maxima = relu(self.spelling(read.transpose(1, 2))).amax(2)
        mean = read.sum(1) / there.sum(1).clamp(min=1.0)
        spelled: Tensor = relu(self.spelled(self.dropout(torch.cat([maxima, mean, read[:, 0]], -1))))
        return spelled


def pretrained_words(recipe: TextRecipe, features: int) -> SentenceWordEncoder:
    """The encoder that the recipe's keys ask for. Raises UserError where its weights are not there."""
    pretrained = load_bert(text_origin(recipe).weights.parent, recipe.dropout)
    layers = len(pretrained.layers)
    if recipe.unfreeze > layers:
        raise UserError(f"model.text.unfreeze is {recipe.unfreeze}; the network has {layers} layers")
    return SentenceWordEncoder(
        pretrained, recipe.dropout, recipe.token_dropout, features, recipe.unfreeze, recipe.unfreeze_rate
    )


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """Of values [B, N, d] those at `places` [B, M]: [B, M, d]."""
    wanted = places.to(torch.int64).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return torch.gather(values, 1, wanted)


def _letter_kinds() -> Tensor:
    """[LETTER_KINDS, 5]: 1 where a letter is a capital, small, a digit, a sign, and for all."""
    latin = [[float(kind(chr(code))) for kind in _KINDS] for code in range(LATIN)]
    return torch.tensor([*latin, *([float(kind) for kind in row] for row in _BEYOND)])
