"""The keys of `[onnx]`: a model that somebody else trained."""

from __future__ import annotations

from msgspec import Struct

from build_engines.foreign.recipe import OnnxInput
from build_engines.recipe.detection import DetectionRecipe
from edge_runtime.streams import Name


class OnnxStage(Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of one's own."""

    name: Name
    """As `stage:<stage>:<output>` calls it."""
    file: str
    """Relative to the recipe."""
    inputs: dict[str, OnnxInput]


class OnnxModel(Struct, frozen=True, forbid_unknown_fields=True):
    """A model from elsewhere: one graph, or one per stage, in the order they run."""

    stages: tuple[OnnxStage, ...]
    output: str
    """`stage:<stage>:<output>`: one value per label. Outputs that nothing reads are left out."""
    probabilities: bool = False
    """The output is probabilities already. Those of a softmax or sigmoid at the graph's end, which is seen without
    this, are taken from before it; of others the logarithm (of a sigmoid head, of the odds) becomes the logits."""
    head: str = "softmax"
    """`softmax` (one label of n), `sigmoid` (independent labels) or `detection` (what is where in a picture)."""
    detection: DetectionRecipe = DetectionRecipe()
    tokenizer: str = ""
    """For text streams, relative to the recipe: a SentencePiece model, a `tokenizer.json` of Hugging Face, or a
    WordPiece vocabulary (`vocab.txt`)."""
