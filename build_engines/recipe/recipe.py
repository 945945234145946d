"""The recipe as a whole: of a model to be trained, or of one's own ONNX files."""

from __future__ import annotations

from msgspec import Struct

from build_engines.modalities.text.recipe import TokenizerRecipe
from build_engines.recipe.budget import BudgetRecipe
from build_engines.recipe.choose import ChooseRecipe
from build_engines.recipe.dataset import PLAIN_DATASET, DatasetRecipe, MinedRecipe, WorldRecipe
from build_engines.recipe.gate import GateRecipe
from build_engines.recipe.heads import SideHeadRecipe, make_head
from build_engines.recipe.model import ModelRecipe
from build_engines.recipe.onnx import OnnxModel
from build_engines.recipe.reduce import CalibrateRecipe, CompileRecipe, QuantiseRecipe
from build_engines.recipe.train import OppositeRecipe, TrainRecipe
from edge_runtime.errors import ConfigError
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.regression import Value
from edge_runtime.slots import Trial
from edge_runtime.streams import CameraStream, Name, StreamSpec, streams_of
from edge_runtime.tensor_source import stage_output


class BuildRecipe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every recipe says, wherever its model comes from."""

    name: Name
    """Of the bundle: small letters, digits, `.`, `-` and `_`."""
    version: str
    """Of the bundle, for people."""
    layout: str
    """The data's layout: a key of `datasets.LAYOUTS`."""
    labels: tuple[str, ...] = ()
    """In the order of the head's outputs; empty for a regression head, and allowed to be for the layout `ner`: then the
    training data's tags."""
    trigger: str
    """The stream whose messages cause decisions."""
    streams: dict[Name, StreamSpec]
    decision: DecisionPolicy
    dataset: DatasetRecipe = PLAIN_DATASET
    """For the samples layout."""
    data: str = ""
    """Data folder where `--data` is not given, relative to the working directory."""
    seed: int = 0
    """Of everything that is drawn: the same seed gives the same bundle."""
    calibrate: CalibrateRecipe = CalibrateRecipe()
    quantise: QuantiseRecipe = QuantiseRecipe()
    compile: CompileRecipe = CompileRecipe()
    gate: GateRecipe = GateRecipe()
    budget: BudgetRecipe = BudgetRecipe()
    trial: Trial = Trial()
    """What a device that installs the bundle asks of it before it is good, unless told otherwise there."""
    grammar: str = ""
    """The sentences that may be said to it, for a source of kind `voice`, as docs/voice.md writes them: the bundle's
    `grammar.txt`."""
    description: str = ""
    """What it decides, in a sentence."""
    licence: str = ""
    """Of the bundle, SPDX where there is one."""
    attribution: tuple[str, ...] = ()
    """Whom to name for data and weights, a line each."""
    slim: bool = False
    """Ship the graphs of the reduced plan alone, for the CPU too: a part of the size. Without it the bundle holds every
    stage in every precision, and runs in FP32 where there is no TensorRT."""
    evaluate_split: str = "val"
    """The split that the gate and the report judge by."""


class Recipe(BuildRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model to be trained."""

    model: ModelRecipe
    train: TrainRecipe
    head: str = "softmax"
    """Kind of the head: `softmax` (one label of n), `sigmoid` (independent labels), `tagging` (a label per word) or
    `regression` (named values)."""
    values: tuple[Value, ...] = ()
    """Of a regression head, instead of labels."""
    side_heads: tuple[SideHeadRecipe, ...] = ()
    """Heads beside the first, on the same features."""
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    world: WorldRecipe = WorldRecipe()
    mined: MinedRecipe = MinedRecipe()
    """For the layouts samples, images, recordings and world."""
    opposites: tuple[OppositeRecipe, ...] = ()
    choose: ChooseRecipe = ChooseRecipe()

    @property
    def output_head(self) -> Head:
        """The head as a manifest describes it. Raises ConfigError."""
        return make_head(self.head, str(stage_output("fusion", "logits")), self.labels, self.values)

    @property
    def heads(self) -> dict[str, Head]:
        """All heads by name; the first, which has an empty one, reads `logits` of the stage `fusion`, each other the
        output of its name. Raises ConfigError."""
        return {"": self.output_head} | {
            side.name: make_head(side.head, str(stage_output("fusion", side.name)), side.labels, side.values)
            for side in self.side_heads
        }

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's streams in the order of the presence mask: cameras, text, sensors, sound."""
        return tuple(stream for encoder in self.model.encoders.values() for stream in encoder.streams)


class OnnxRecipe(BuildRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that somebody else trained."""

    onnx: OnnxModel

    @property
    def output_head(self) -> Head:
        """The head as a manifest describes it. Raises ConfigError."""
        seen = self.onnx.detection if self.onnx.head == "detection" else None
        cameras = list(streams_of(self.streams, CameraStream))
        if seen is not None and not seen.camera and len(cameras) != 1:
            raise ConfigError(
                f"onnx.detection.camera must say which of {', '.join(cameras) or 'no cameras'} it looks at"
            )
        return make_head(self.onnx.head, self.onnx.output, self.labels, (), seen, cameras[0] if cameras else "")


AnyRecipe = Recipe | OnnxRecipe
