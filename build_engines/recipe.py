"""The recipe: one strict TOML file that says everything a build depends on.

It reuses the device's own stream and decision types, so what a recipe declares is what the manifest will hold.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from build_engines.bounds import Fraction, NotNegative
from build_engines.modalities import MODALITIES
from build_engines.modalities.audio.recipe import AudioRecipe
from build_engines.modalities.modality import EncoderRecipe
from build_engines.modalities.sensors.recipe import SensorsRecipe
from build_engines.modalities.text.recipe import TextRecipe, TokenizerRecipe
from build_engines.modalities.vision.recipe import VisionRecipe
from edge_runtime.config import convert_strict
from edge_runtime.errors import ConfigError
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.regression import Value
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.heads.tagging import TaggingHead
from edge_runtime.streams import Count, Name, Positive, StreamSpec, TextStream, kind_of
from edge_runtime.tensor_source import parse_source, stage_output

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class FusionRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """How the features become one decision; `tagger` gives one per word of the text."""

    kind: Literal["concat", "weighted", "gated", "attention", "tagger"]
    width: Count = 128
    heads: Count = 4
    dropout: Fraction = 0.1
    weights: dict[str, NotNegative] = {}
    """For kind `weighted`: stream to its weight, fixed instead of learned; `build-engines compare` chooses them by
    cross-validation."""


class ModelRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The four stages; an encoder that is left out has no stage."""

    features: Annotated[int, Meta(ge=4, le=4096)]
    """d: the length of every encoder's output."""
    fusion: FusionRecipe
    vision: VisionRecipe | None = None
    text: TextRecipe | None = None
    sensors: SensorsRecipe | None = None
    audio: AudioRecipe | UnsetType = UNSET
    """Not written where it is not given: what is known of older models stays the same to the byte."""

    @property
    def encoders(self) -> dict[str, EncoderRecipe]:
        """Name of its stage to each encoder that is given, in the order of the presence mask."""
        return {name: encoder for name in MODALITIES if (encoder := getattr(self, name))}

    def only(self, name: str) -> ModelRecipe:
        """The same with no encoder but the one called `name`."""
        absent = {field.name: field.default for field in msgspec.structs.fields(self) if field.name in MODALITIES}
        return msgspec.structs.replace(self, **absent | {name: self.encoders[name]})


class OppositeRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Two text labels that differ by a word. Swapping it gives a training sentence of the other label, so that the
    model learns the word and not the places and names that happened to occur with one of the two (counterfactual
    augmentation: Kaushik et al. 2020, arXiv:1909.12434).
    """

    labels: tuple[str, str]
    words: tuple[tuple[str, str], ...]
    """Pairs in the order of `labels`; the first pair that occurs in a sentence is swapped."""
    keep: tuple[str, ...] = ()
    """Words that only look as if they held one of the pairs; left alone."""


class DatasetRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the fields of a `samples.jsonl` mean. A field within a field is written with a dot: `labels.action`."""

    label: str = "label"
    """Field of the label; empty = rows have none, as for a regression head."""
    targets: dict[str, str] = {}
    """Value of a regression head to the field that holds it, a number in the value's unit."""
    side_labels: dict[str, str] = {}
    """Name of a head beside the first, one with labels, to the field of its label."""
    group: str | tuple[str, ...] = ()
    """The field, or fields, that rows share which are not independent: a block of a drive, a patient, near doubles.
    Intervals are drawn over these groups, and none may be in two splits.
    """
    condition: str = ""
    """Field that tells circumstances apart (day, night) which are also scored one by one."""
    values: dict[str, str] = {}
    """Value of the label field to the label; empty = the value is the label. For a sigmoid head, `none` = no label."""
    categories: dict[str, dict[str, float]] = {}
    """Channel to the number that stands for each word of it."""
    aux: dict[str, str] = {}
    """Auxiliary label of a modality to its field; its classes are the training split's values, in order."""
    bins: dict[str, tuple[float, ...]] = {}
    """Auxiliary label whose field is a number to the edges of its classes, which are then called `0`, `1`, ..."""

    exclude: tuple[str, ...] = ()
    """Ids of rows that are left out of every split, e.g. ones that the data holds a second time."""

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.group,) if isinstance(self.group, str) else self.group


PLAIN_DATASET = DatasetRecipe()
"""Fields that mean what they are called."""


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
    scale: Fraction = 0.0
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
    learning_rate: Positive = 3e-3
    dropout: Fraction = 0.05
    """Of the encoder meanwhile: words are learned by heart."""
    beside: Count = 128
    """Words drawn for every step of tagging."""
    weight: NotNegative = 0.5
    """Of their loss there."""


class TrainRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The optimiser (AdamW, one-cycle) and the regularisers."""

    epochs: Count
    batch: Count = 64
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.01
    label_smoothing: Fraction = 0.05
    class_balance: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Weight of a class = (mean count / its count) ** this."""
    class_weights: dict[str, Positive] = {}
    """Label to a factor on its weight; `build-engines improve` proposes them."""
    offsets: bool = False
    """Move a softmax head's logits, by a constant per label, to where macro-F1 on the evaluated split is best."""
    modality_dropout: dict[str, Fraction] = {}
    """Stream to the chance of being absent in a training pair."""
    aux_weight: NotNegative = 1.0
    average: Fraction = 0.99
    """Decay of the moving average of the weights, which is what is kept."""
    repairing: Count = 1
    """Random combinations per natural part and step, for layouts whose parts are labelled one by one."""
    augment: AugmentRecipe = AugmentRecipe()
    words: WordsRecipe = WordsRecipe()
    lexicon: LexiconRecipe = LexiconRecipe()


class CalibrateRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Which moments stand for the field."""

    samples: Annotated[int, Meta(ge=8, le=100_000)] = 256
    split: str = "train"
    """Split of the data folder to choose from; never the one that is evaluated."""
    near_leak: Fraction = 0.02
    """At most this part of the chosen moments may be nearly, though not exactly, ones that are evaluated."""
    recordings: tuple[str, ...] = ()
    """Recordings of live runs (`edge-runtime record`) to choose from instead of the split; paths relative to the
    recipe.
    """


RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]


class QuantiseRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Which parts may become INT8, and what losing precision may cost while the plan is chosen."""

    stages: tuple[str, ...] = ()
    """Stages that may be quantised; the others are offered in FP16 and FP32 only."""
    methods: tuple[RangeMethod, ...] = ("minmax", "percentile", "entropy", "mse")
    """How activation ranges may be chosen; the one that loses least on the task is taken, stage by stage."""
    exclude: tuple[str, ...] = ()
    """Blocks (`stage/block`, as the sensitivity table names them) that stay in FP16."""
    attention_products: bool = False
    """Quantise the products of two activations too. They lose most and gain least."""
    samples: Annotated[int, Meta(ge=16)] = 1000
    """Moments of the evaluation split that the sensitivity pass looks at."""


class CompileRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Ahead of time, for GPUs that are not here."""

    targets: tuple[Annotated[str, Meta(pattern=r"^\d+\.\d+$")], ...] = ("8.6", "8.9", "12.0")
    """Compute capabilities; empty = devices build their own engines."""
    workspace_mb: Annotated[int, Meta(ge=16, le=65536)] = 256


class GateRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle must reach on the evaluation split; below it the build is refused."""

    accuracy: Fraction = 0.0
    """Of the decisions in FP32, policy included."""
    macro_f1: Fraction = 0.0
    macro_f1_ratio: Annotated[float, Meta(ge=1e-12, le=1)] = 0.99
    """A reduced precision keeps at least this part of FP32's macro-F1."""
    class_drop: Fraction = 0.03
    """No class's F1 falls by more than this."""
    min_gain: Fraction = 0.05
    """The plan's graphs are smaller than FP32's by at least this part."""
    mae_ratio: Annotated[float, Meta(ge=1)] = 1.05
    """In a reduced precision no value's mean absolute error is more than this many times FP32's..."""
    mae_slack: Fraction = 0.001
    """... but for this part of the value's range, which may always be lost."""
    nmae: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Of a regression head in FP32: mean absolute error over the range, averaged over the values; at most this."""
    agreement: Fraction = 0.05
    """On a GPU, no output of a stage and no logit is further from ONNX Runtime's than this part of the largest one.
    One step of INT8 is 0.8 %, and a value on the edge of two steps may fall to either side."""
    fallback: bool = True
    """Where the chosen plan is refused, give stages back their precision until it passes, and say so; else refuse."""


class WorldRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What to record of the built-in world where the data folder is absent."""

    train_episodes: Count = 60
    val_episodes: Count = 15
    seconds: Positive = 40.0
    camera_hz: Positive = 3.0
    learner_episodes: Annotated[int, Meta(ge=0)] = 0
    """Drives of the trained bundle itself, labelled by the expert, to train once more on (DAgger); 0 = none."""
    learner_epochs: Count = 4
    learner_rate: Positive = 5e-4


class BuildRecipe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every recipe says, wherever its model comes from."""

    name: Name
    version: str
    layout: str
    """The data's layout: a key of `datasets.LAYOUTS`."""
    labels: tuple[str, ...] = ()
    """In the order of the head's outputs; empty for a regression head, and allowed to be for the layout `ner`: then the
    training data's tags."""
    trigger: str
    streams: dict[Name, StreamSpec]
    decision: DecisionPolicy
    dataset: DatasetRecipe = PLAIN_DATASET
    """For the samples layout."""
    data: str = ""
    """Data folder where `--data` is not given, relative to the working directory."""
    seed: int = 0
    calibrate: CalibrateRecipe = CalibrateRecipe()
    quantise: QuantiseRecipe = QuantiseRecipe()
    compile: CompileRecipe = CompileRecipe()
    gate: GateRecipe = GateRecipe()
    description: str = ""
    licence: str = ""
    attribution: tuple[str, ...] = ()
    evaluate_split: str = "val"


class SideHeadRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """A head beside the first: told with every decision, and trained and judged with it."""

    name: Name
    head: str
    decision: DecisionPolicy = DecisionPolicy()
    labels: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    weight: Positive = 1.0
    """Of its loss."""


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
    opposites: tuple[OppositeRecipe, ...] = ()

    @property
    def output_head(self) -> Head:
        """The head as a manifest describes it. Raises ConfigError."""
        return make_head(self.head, str(stage_output("fusion", "logits")), self.labels, self.values)

    @property
    def heads(self) -> dict[str, Head]:
        """All heads by name; the first, which has an empty one, reads `logits` of the stage `fusion`, each other the
        output of its name. Raises ConfigError."""
        return {"": self.output_head} | {
            one.name: make_head(one.head, str(stage_output("fusion", one.name)), one.labels, one.values)
            for one in self.side_heads
        }

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's streams in the order of the presence mask: cameras, text, sensors, sound."""
        return tuple(stream for encoder in self.model.encoders.values() for stream in encoder.streams)


def make_head(kind: str, output: str, labels: tuple[str, ...], values: tuple[Value, ...] = ()) -> Head:
    """A head as a manifest describes it, reading `output`. Raises ConfigError (one line)."""
    fields = next((one.__struct_fields__ for one in get_args(Head) if one.__struct_config__.tag == kind), ())
    given = {"labels": labels, "values": msgspec.to_builtins(values)}
    # Labels may be found in the data later; what has none is not given any.
    said = {name: what for name, what in given.items() if what or (name == "labels" and name in fields)}
    if labels and values:
        raise ConfigError(f"head = {kind!r}: labels and values exclude each other")
    try:
        made: Head = msgspec.convert({"kind": kind, "output": output, **said}, Head)
    except msgspec.ValidationError as error:
        kinds = ", ".join(str(one.__struct_config__.tag) for one in get_args(Head))
        raise ConfigError(f"head = {kind!r}: {error}; kinds of heads are {kinds}") from None
    return made


class PixelRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What an own graph expects of pictures: `(pixel * scale - mean) / std`, pixels being 0 to 255."""

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    colour: Literal["RGB", "BGR"] = "RGB"
    scale: Positive = 1.0 / 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per channel, in the order of `colour`."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)


class OnnxInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an own graph's input comes from."""

    source: str
    """`stream:<stream>:<field>`, `stage:<stage>:<output>` or `presence`, as in a bundle's manifest."""
    pixels: PixelRecipe | None = None
    """For pictures: conversion put in front of the graph. Without it the graph takes uint8 NHWC BGR itself."""


class OnnxStage(Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of one's own."""

    name: Name
    file: str
    """Relative to the recipe."""
    inputs: dict[str, OnnxInput]


class OnnxModel(Struct, frozen=True, forbid_unknown_fields=True):
    """A model from elsewhere: one graph, or one per stage, in the order they run."""

    stages: tuple[OnnxStage, ...]
    output: str
    """`stage:<stage>:<output>`: one value per label."""
    probabilities: bool = False
    """The output is probabilities already; their logarithm becomes the logits."""
    head: str = "softmax"
    tokenizer: str = ""
    """SentencePiece model for a text stream, relative to the recipe."""


class OnnxRecipe(BuildRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that somebody else trained."""

    onnx: OnnxModel

    @property
    def output_head(self) -> Head:
        """The head as a manifest describes it. Raises ConfigError."""
        return make_head(self.onnx.head, self.onnx.output, self.labels)


AnyRecipe = Recipe | OnnxRecipe


def load_recipe(path: Path) -> tuple[AnyRecipe, str]:
    """The recipe at `path` and the sha256 of its bytes. Raises ConfigError (one line)."""
    try:
        raw = path.read_bytes()
        data = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: is not TOML ({error})") from None
    if "onnx" in data and "model" in data:
        raise ConfigError(f"recipe {path}: has both [model] (to be trained) and [onnx] (one's own); keep one of them")
    recipe: AnyRecipe
    base = path.resolve().parent
    if "onnx" in data:
        recipe = own = _beside(convert_strict(data, OnnxRecipe, f"recipe {path}"), base)
        problem = check_common(recipe) or check_onnx(own)
    else:
        recipe = trained = convert_strict(data, Recipe, f"recipe {path}")
        problem = check(trained)
    if problem:
        raise ConfigError(f"recipe {path}: {problem}")
    recordings = tuple(str(base / file) for file in recipe.calibrate.recordings)
    recipe = msgspec.structs.replace(recipe, calibrate=msgspec.structs.replace(recipe.calibrate, recordings=recordings))
    return recipe, hashlib.sha256(raw).hexdigest()


def _beside(recipe: OnnxRecipe, base: Path) -> OnnxRecipe:
    """`recipe` with its files' paths made absolute."""
    model = recipe.onnx
    stages = tuple(msgspec.structs.replace(stage, file=str(base / stage.file)) for stage in model.stages)
    tokenizer = str(base / model.tokenizer) if model.tokenizer else ""
    return msgspec.structs.replace(recipe, onnx=msgspec.structs.replace(model, stages=stages, tokenizer=tokenizer))


def check_onnx(recipe: OnnxRecipe) -> str | None:
    """What contradicts itself in an own model's part, or None."""
    stages = recipe.onnx.stages
    if not stages:
        return "[onnx] names no stage; add an [[onnx.stages]] block"
    if len({stage.name for stage in stages}) != len(stages):
        return "[[onnx.stages]] must have distinct names"
    try:
        for source in (source.source for stage in stages for source in stage.inputs.values()):
            parse_source(source)
        output = parse_source(recipe.onnx.output)
    except ValueError as error:
        return f"[onnx]: {error}"
    if output.kind != "stage" or output.name not in {stage.name for stage in stages}:
        return f"onnx.output is {recipe.onnx.output!r}; it must be stage:<one of [[onnx.stages]]>:<its output>"
    if recipe.onnx.probabilities and not isinstance(recipe.output_head, SoftmaxHead):
        return "onnx.probabilities is for a softmax head; let a sigmoid head's graph end before its sigmoid"
    return _unknown_stages(recipe, tuple(stage.name for stage in stages))


def _unknown_stages(recipe: BuildRecipe, stages: tuple[str, ...]) -> str | None:
    for name in recipe.quantise.stages:
        if name not in stages:
            return f"quantise.stages names {name!r}; the model's stages are {', '.join(stages)}"
    return None


def check_common(recipe: AnyRecipe) -> str | None:
    """What contradicts itself in the part that all recipes share, or None."""
    if recipe.trigger not in recipe.streams:
        return f"trigger is {recipe.trigger!r}; the streams are {', '.join(sorted(recipe.streams))}"
    if recipe.calibrate.split == recipe.evaluate_split:
        return f"calibrate.split is {recipe.calibrate.split!r}, which is also evaluated; calibrate on other data"
    if not recipe.labels and recipe.layout == "ner":
        return None  # they are found in the training data
    if problem := _check_head(recipe.output_head, recipe.decision, recipe.streams):
        return problem
    return _check_side_heads(recipe) if isinstance(recipe, Recipe) else None


def _check_head(head: Head, policy: DecisionPolicy, streams: dict[str, StreamSpec], acts: bool = True) -> str | None:
    if isinstance(head, SoftmaxHead) and len(head.labels) < 2:
        return "labels must be distinct and at least two"
    return next(chain(head.problems(policy, streams), head.ignored(policy, acts)), None)


def _check_side_heads(recipe: Recipe) -> str | None:
    """Names, policies, and whether the data can tell what is right."""
    names = [one.name for one in recipe.side_heads]
    # What the fusion and the monolith already call their tensors.
    tensors = (item.monolith for row in MODALITIES.values() for item in row.inputs.values())
    taken = ("logits", "presence", *MODALITIES, *tensors)
    if len(set(names)) != len(names) or set(names) & set(taken):
        return f"side_heads must have distinct names, none of {', '.join(taken)}; got {', '.join(names)}"
    heads = recipe.heads
    if recipe.side_heads and any(isinstance(head, TaggingHead) for head in heads.values()):
        return "side_heads and tagging exclude each other: a tag belongs to a word, other answers to a moment"
    for one in recipe.side_heads:
        if problem := _check_head(heads[one.name], one.decision, recipe.streams, acts=False):
            return f"side head {one.name}: {problem}"
        if one.labels and one.name not in recipe.dataset.side_labels:
            return f"side head {one.name}: dataset.side_labels must name the field of its label"
    values = [value.name for value in (*recipe.values, *(one for side in recipe.side_heads for one in side.values))]
    if len(set(values)) != len(values):
        return f"values of all heads must have distinct names, got {', '.join(values)}"
    if unknown := [name for name in values if name not in recipe.dataset.targets]:
        return f"dataset.targets must name the field of the value {unknown[0]!r}"
    if recipe.gate.macro_f1 and not recipe.labels:
        return "gate.macro_f1 is for a head with labels; of a regression head set gate.nmae"
    if recipe.gate.nmae < 1 and not recipe.values:
        return "gate.nmae is for a regression head; of a head with labels set gate.macro_f1"
    if (values or recipe.side_heads) and recipe.train.augment.mirror is not None:
        return "train.augment.mirror changes labels only; leave it out for values and side_heads"
    return None


def check(recipe: Recipe) -> str | None:
    """What contradicts itself in the recipe, or None."""
    model = recipe.model
    if not recipe.modalities:
        return f"model has no encoder; give at least one of {', '.join(f'model.{name}' for name in MODALITIES)}"
    for name, encoder in model.encoders.items():
        row = MODALITIES[name]
        for stream in encoder.streams:
            if not isinstance(recipe.streams.get(stream), row.spec):
                return f"the model reads the stream {stream!r}, which must be a {row.spec.__name__} under [streams]"
        if problem := row.problem(encoder):
            return problem
        if len({_form(recipe.streams[stream]) for stream in encoder.streams}) > 1:
            return f"all streams of model.{name} must be of the same form: they are one batch"
    if unknown := set(recipe.train.class_weights) - set(recipe.labels):
        return f"train.class_weights names {sorted(unknown)[0]!r}; the labels are {', '.join(recipe.labels)}"
    for name in recipe.train.modality_dropout:
        if name not in recipe.modalities:
            return f"train.modality_dropout names {name!r}; the model reads {', '.join(recipe.modalities)}"
    for encoder in model.encoders.values():
        if encoder.aux_in_features and sum(encoder.aux.values()) >= model.features:
            return f"model.features is {model.features}, too few to hold the auxiliary probabilities {encoder.aux}"
    if problem := _check_train(recipe):
        return problem
    stages = (*model.encoders, "fusion")
    return _check_weights(recipe) or _check_tagging(recipe) or check_common(recipe) or _unknown_stages(recipe, stages)


def _check_weights(recipe: Recipe) -> str | None:
    fusion, weights = recipe.model.fusion, recipe.model.fusion.weights
    if weights and (fusion.kind != "weighted" or set(weights) != set(recipe.modalities) or not sum(weights.values())):
        names = ", ".join(recipe.modalities)
        return f"model.fusion.weights is for kind = 'weighted' and needs a weight for each of {names}, not all 0"
    return None


def _check_tagging(recipe: Recipe) -> str | None:
    """A tag per word needs an encoder per word, and nothing else to fuse it with."""
    model, tagging = recipe.model, isinstance(recipe.output_head, TaggingHead)
    by_word = model.text is not None and model.text.kind == "words"
    if tagging != by_word or tagging != (model.fusion.kind == "tagger"):
        return 'head = "tagging", model.text.kind = "words" and model.fusion.kind = "tagger" belong together'
    for name, spec in recipe.streams.items():
        if isinstance(spec, TextStream) and bool(spec.word_pieces) != tagging:
            return f"streams.{name}: word_pieces is for a tagging head, which needs it"
    if not tagging and (recipe.tokenizer.mark_capitals or (model.text and model.text.lexicon)):
        return "tokenizer.mark_capitals and model.text.lexicon are for words encoded one by one: a tagging head"
    if recipe.tokenizer.mark_capitals and recipe.tokenizer.keep_case:
        return "tokenizer.keep_case and mark_capitals exclude each other; leave one out"
    if tagging and len(model.encoders) > 1:
        return f"a tagging head reads text only; the model has {', '.join(model.encoders)}"
    return None


def _check_train(recipe: Recipe) -> str | None:
    model = recipe.model
    if recipe.train.offsets and not isinstance(recipe.output_head, SoftmaxHead):
        return f"train.offsets is for a softmax head; the head is {recipe.head!r}"
    augment = recipe.train.augment
    if augment.mixup + augment.cutmix > 1:
        return f"train.augment.mixup and cutmix add up to {augment.mixup + augment.cutmix:g}; at most 1"
    if augment.mixup + augment.cutmix and (not model.vision or len(recipe.modalities) > 1):
        return "train.augment.mixup and cutmix mix pictures with their labels; they are for models of one camera alone"
    return None


def _form(spec: StreamSpec) -> Hashable:
    """What must be equal for streams to be read as one batch."""
    return tuple((name, field.shape) for name, field in kind_of(spec).fields(spec).items())
