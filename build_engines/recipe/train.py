"""The keys of `[train]` and `[[opposites]]`: the optimiser, the regularisers, what changes the data while training."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from build_engines.bounds import Fraction, NotNegative
from edge_runtime.streams import Count, Positive


class OppositeRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Two text labels that differ by a word. Swapping it gives a training sentence of the other label, so that the
    model learns the word and not the places and names that happened to occur with one of the two (counterfactual
    augmentation: Kaushik et al. 2020, arXiv:1909.12434).
    """

    labels: tuple[str, str]
    """The two labels that change places."""
    words: tuple[tuple[str, str], ...]
    """Pairs in the order of `labels`; the first pair that occurs in a sentence is swapped."""
    keep: tuple[str, ...] = ()
    """Words that only look as if they held one of the pairs; left alone."""


class MirrorRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Mirror half of the training moments, pictures and meaning: what was left is then right."""

    labels: tuple[tuple[str, str], ...] = ()
    """Pairs that change places, among the labels and the auxiliary labels' values."""
    channels: tuple[str, ...] = ()
    """Sensor channels whose sign changes."""


class AugmentRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of the pictures while training; all 0 = none."""

    shift: Fraction = 0.0
    """Up to this part of the width and height, either way."""
    rotate_deg: NotNegative = 0.0
    """Rotate by up to so many degrees."""
    scale: Fraction = 0.0
    """Enlarge or shrink by up to this share."""
    brightness: Fraction = 0.0
    """Gain and offset change by up to this part of the range."""
    noise: NotNegative = 0.0
    """Deviation in grey levels."""
    flip: bool = False
    """Mirror half of the pictures; never where left and right mean something (there: `mirror`)."""
    mirror: MirrorRecipe | None = None
    """For the samples layout."""
    crop: Fraction = 0.0
    """Enlarge a random part of at least 1 - this of the area (Szegedy et al. 2014, arXiv:1409.4842)."""
    stretch: Fraction = 0.0
    """That part's width over height is the picture's times up to 1 + this, or divided by it."""
    colour: Fraction = 0.0
    """Each colour's gain changes by up to this, by itself."""
    blur: Fraction = 0.0
    """Chance of a Gaussian blur of a deviation up to 1/40 of the width: a fogged, dirty or defocused lens."""
    dim: Fraction = 0.0
    """Chance of a gain between 0.15 and 1: too little light, or an aperture that does not open."""
    erase: Fraction = 0.0
    """Chance of a rectangle in one random colour (Zhong et al. 2017, arXiv:1708.04896)."""
    mixup: Fraction = 0.0
    """Chance that a batch is blended with itself in another order (Zhang et al. 2017, arXiv:1710.09412)."""
    cutmix: Fraction = 0.0
    """Chance that a rectangle is pasted from there instead (Yun et al. 2019, arXiv:1905.04899)."""


class WordsRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of tagged sentences while training, so that a name is known by its shape and place; all 0 = none."""

    swap: Fraction = 0.0
    """Chance that an entity is replaced by another one of its type."""
    respell: Fraction = 0.0
    """Chance that half of an entity's letters and digits become others of their kind: a name never seen before."""
    case: Fraction = 0.0
    """Chance that a sentence loses its capitals; a fifth of it that it is all capitals."""


class LexiconRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """How a word encoder learns lists of words (`model.text.lexicon`): first by themselves, then beside the tags."""

    epochs: Positive = 8.0
    """Times that as many words are drawn as are listed, before the first sentence."""
    batch: Count = 256
    """Words in a step."""
    learning_rate: Positive = 3e-3
    """Of AdamW, at its highest."""
    dropout: Fraction = 0.05
    """Of the encoder meanwhile: words are learned by heart."""
    beside: Count = 128
    """Words drawn for every step of tagging."""
    weight: NotNegative = 0.5
    """Of their loss there."""


class TrainRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The optimiser (AdamW, one-cycle) and the regularisers."""

    epochs: Count
    """Times through the training split."""
    batch: Count = 64
    """Moments in a step."""
    learning_rate: Positive = 2e-3
    """Of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), at its highest."""
    weight_decay: NotNegative = 0.01
    """Of AdamW."""
    label_smoothing: Fraction = 0.05
    """Share of the certainty that is spread over all labels."""
    class_balance: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Weight of a class = (mean count / its count) ** this."""
    class_weights: dict[str, Positive] = {}
    """Label to a factor on its weight; `build-engines improve` proposes them."""
    offsets: bool = False
    """Move a softmax head's logits, by a constant per label, to where macro-F1 is best on moments left out."""
    modality_dropout: dict[str, Fraction] = {}
    """Stream to the chance of being absent in a training pair."""
    aux_weight: NotNegative = 1.0
    """Of the auxiliary labels' losses beside the first head's."""
    average: Fraction = 0.99
    """Decay of the moving average of the weights, which is what is kept."""
    threads: Count = 1
    """CPU threads that train. Weights are the same again for the same number only."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What trains: the processor, or a GPU (`auto`: where torch sees one). A GPU's weights differ from the
    processor's, and a little from one training to the next."""
    repairing: Count = 1
    """Random combinations per natural part and step, for layouts whose parts are labelled one by one."""
    augment: AugmentRecipe = AugmentRecipe()
    words: WordsRecipe = WordsRecipe()
    lexicon: LexiconRecipe = LexiconRecipe()
