"""What contradicts itself in a recipe, in one line."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import chain

from build_engines.modalities import MODALITIES, encoder_fields, modality_of_encoder
from build_engines.recipe.detection import DetectionRecipe
from build_engines.recipe.gate import PLAIN_GATE
from build_engines.recipe.heads import HEAD_ROWS
from build_engines.recipe.recipe import AnyRecipe, BuildRecipe, OnnxRecipe, Recipe
from edge_runtime.heads import Head
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.streams import SensorStream, StreamSpec, TextStream, kind_of, streams_of
from edge_runtime.tensor_source import parse_source
from edge_runtime.voice.grammar import GrammarError, parse

MINED_BESIDE = ("samples", "images", "recordings", "world")
"""Layouts whose moments were recorded whole, as mined ones are."""
MOST_CHANNELS = 3000
"""Of a stream of sensors: a message of 64 KiB holds about as many readings."""


def check_onnx(recipe: OnnxRecipe) -> str | None:
    """What contradicts itself in an own model's part, or None."""
    stages = recipe.onnx.stages
    if not stages:
        return "[onnx] names no stage; add an [[onnx.stages]] block"
    if len({stage.name for stage in stages}) != len(stages):
        return "[[onnx.stages]] must have distinct names"
    for stage in stages:
        for name, item in stage.inputs.items():
            if problem := item.problem():
                return f"onnx.stages {stage.name}, input {name}: {problem}"
    try:
        output = parse_source(recipe.onnx.output)
    except ValueError as error:
        return f"[onnx]: {error}"
    if output.kind != "stage" or output.name not in {stage.name for stage in stages}:
        return f"onnx.output is {recipe.onnx.output!r}; it must be stage:<one of [[onnx.stages]]>:<its output>"
    if problem := _check_detection(recipe):
        return problem
    return _unknown_stages(recipe, tuple(stage.name for stage in stages))


def _check_detection(recipe: OnnxRecipe) -> str | None:
    head = recipe.output_head
    if isinstance(head, DetectionHead):
        if problem := recipe.onnx.detection.problem():
            return f"onnx.detection: {problem}"
        if recipe.onnx.probabilities:
            return "onnx.probabilities is for labels; of a detection head onnx.detection.activation tells"
    elif recipe.onnx.detection != DetectionRecipe():
        return f"onnx.detection is for head = 'detection'; onnx.head is {recipe.onnx.head!r}"
    return _check_goal(recipe, head.kind, HEAD_ROWS[type(head)].goal)


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
    for name, spec in recipe.streams.items():
        if isinstance(spec, SensorStream) and len(spec.channels) > MOST_CHANNELS:
            return f"streams.{name} has {len(spec.channels)} channels; a message holds at most {MOST_CHANNELS} readings"
    if recipe.grammar:
        try:
            parse(recipe.grammar, "of the recipe")
        except GrammarError as error:
            return str(error)
    if not recipe.labels and recipe.layout == "ner":
        return None  # they are found in the training data
    if problem := _check_head(recipe.output_head, recipe.decision, recipe.streams):
        return problem
    return _check_side_heads(recipe) if isinstance(recipe, Recipe) else None


def _check_head(head: Head, policy: DecisionPolicy, streams: dict[str, StreamSpec], acts: bool = True) -> str | None:
    shape = head.shape(streams)
    if head.exclusive and shape is not None and shape[-1] < 2:
        return "labels must be distinct and at least two"
    return next(chain(head.problems(policy, streams), head.ignored(policy, acts)), None)


def _check_side_heads(recipe: Recipe) -> str | None:
    """Names, policies, and whether the data can tell what is right."""
    names = [side.name for side in recipe.side_heads]
    # What the fusion and the monolith already call their tensors.
    tensors = (item.monolith for row in MODALITIES.values() for item in row.inputs.values())
    taken = ("logits", "presence", *MODALITIES, *recipe.model.encoders, *tensors)
    if len(set(names)) != len(names) or set(names) & set(taken):
        return f"side_heads must have distinct names, none of {', '.join(taken)}; got {', '.join(names)}"
    heads = recipe.heads
    if recipe.side_heads and any(head.per_word for head in heads.values()):
        return "side_heads and tagging exclude each other: a tag belongs to a word, other answers to a moment"
    for side_head in recipe.side_heads:
        if problem := _check_head(heads[side_head.name], side_head.decision, recipe.streams, acts=False):
            return f"side head {side_head.name}: {problem}"
    first = HEAD_ROWS[type(heads[""])]
    if recipe.train.augment.mirror is not None and (first.answers != "labels" or recipe.side_heads):
        return "train.augment.mirror changes labels only; leave it out for values and side_heads"
    return _check_targets(recipe, heads) or _check_goal(recipe, heads[""].kind, first.goal)


def _check_targets(recipe: Recipe, heads: Mapping[str, Head]) -> str | None:
    """The data must tell what is right for every head."""
    taken = set[tuple[str, str]]()
    for name, head in heads.items():
        row = HEAD_ROWS[type(head)]
        for key in row.targets(name, head):
            if (row.table, key) in taken:
                return f"two heads answer with {key!r} of dataset.{row.table}; give one another name"
            if key not in getattr(recipe.dataset, row.table):
                return f"dataset.{row.table} must name the field of {key!r}"
            taken.add((row.table, key))
    return None


def _check_goal(recipe: BuildRecipe, kind: str, goal: str) -> str | None:
    """`[gate]` may ask for nothing by which a head of this kind is not judged."""
    for row in HEAD_ROWS.values():
        if row.goal != goal and getattr(recipe.gate, row.goal) != getattr(PLAIN_GATE, row.goal):
            return f"gate.{row.goal} judges no {kind} head; set gate.{goal}"
    return None


def check(recipe: Recipe) -> str | None:
    """What contradicts itself in the recipe, or None."""
    model = recipe.model
    if not recipe.modalities:
        return f"model has no encoder; give at least one of {', '.join(f'model.{name}' for name in MODALITIES)}"
    if problem := _check_encoders(recipe):
        return problem
    if unknown := set(recipe.train.class_weights) - set(recipe.labels):
        return f"train.class_weights names {sorted(unknown)[0]!r}; the labels are {', '.join(recipe.labels)}"
    for name in recipe.train.modality_dropout:
        if name not in recipe.modalities:
            return f"train.modality_dropout names {name!r}; the model reads {', '.join(recipe.modalities)}"
    for encoder in model.encoders.values():
        if encoder.aux_in_features and sum(encoder.aux.values()) >= model.features:
            return f"model.features is {model.features}, too few to hold the auxiliary probabilities {encoder.aux}"
    if problem := _check_train(recipe) or _check_mined(recipe):
        return problem
    stages = (*model.encoders, "fusion")
    return _check_weights(recipe) or _check_tagging(recipe) or check_common(recipe) or _unknown_stages(recipe, stages)


def _check_encoders(recipe: Recipe) -> str | None:
    """Each reads streams of its kind."""
    model = recipe.model
    if isinstance(model.sensors, tuple) and len(set(model.encoders) - set(MODALITIES)) != len(model.sensors):
        names = ", ".join(keys.stream for keys in model.sensors)
        return f"[[model.sensors]] must read a stream each, whose names differ in more than '.' and '_'; got {names}"
    for name, encoder in model.encoders.items():
        row = modality_of_encoder(encoder)
        for stream in encoder.streams:
            if not isinstance(recipe.streams.get(stream), row.spec):
                return f"the model reads the stream {stream!r}, which must be a {row.spec.__name__} under [streams]"
        if problem := row.problem(encoder):
            return problem
        if len({_form(recipe.streams[stream]) for stream in encoder.streams}) > 1:
            return f"all streams of model.{name} must have one width and height: they are one batch"
    return None


def _check_weights(recipe: Recipe) -> str | None:
    fusion, weights = recipe.model.fusion, recipe.model.fusion.weights
    if weights and (fusion.kind != "weighted" or set(weights) != set(recipe.modalities) or not sum(weights.values())):
        names = ", ".join(recipe.modalities)
        return f"model.fusion.weights is for kind = 'weighted' and needs a weight for each of {names}, not all 0"
    return None


def _check_tagging(recipe: Recipe) -> str | None:
    """A tag per word needs an encoder per word, and nothing else to fuse it with."""
    model, tagging = recipe.model, recipe.output_head.per_word
    kind = model.text.kind if model.text is not None else ""
    by_word = kind == "words" or (tagging and kind == "pretrained")
    if tagging != by_word or tagging != (model.fusion.kind == "tagger"):
        return (
            'head = "tagging", model.text.kind = "words" or "pretrained" and model.fusion.kind = "tagger" belong '
            "together"
        )
    for name, spec in streams_of(recipe.streams, TextStream).items():
        if bool(spec.word_pieces) != tagging:
            return f"streams.{name}: word_pieces is for a tagging head, which needs it"
        if bool(spec.sentence_pieces) != (tagging and kind == "pretrained"):
            return (
                f'streams.{name}: sentence_pieces is for a tagging head on model.text.kind = "pretrained", '
                "which needs it"
            )
        if problem := next(kind_of(spec).problems(spec), None):
            return f"streams.{name}: {problem}"
    if kind != "words" and (recipe.tokenizer.mark_capitals or (model.text and model.text.lexicon)):
        return "tokenizer.mark_capitals and model.text.lexicon are for words encoded one by one: kind = 'words'"
    if recipe.tokenizer.mark_capitals and recipe.tokenizer.keep_case:
        return "tokenizer.keep_case and mark_capitals exclude each other; leave one out"
    if tagging and len(model.encoders) > 1:
        return f"a tagging head reads text only; the model has {', '.join(model.encoders)}"
    return None


def _check_train(recipe: Recipe) -> str | None:
    model = recipe.model
    if recipe.train.offsets and not recipe.output_head.exclusive:
        return f"train.offsets is for a softmax head; the head is {recipe.head!r}"
    augment = recipe.train.augment
    if augment.mixup + augment.cutmix > 1:
        return f"train.augment.mixup and cutmix add up to {augment.mixup + augment.cutmix:g}; at most 1"
    if augment.mixup + augment.cutmix and (not model.vision or len(recipe.modalities) > 1):
        return "train.augment.mixup and cutmix mix pictures with their labels; they are for models of one camera alone"
    if augment.mixup + augment.cutmix and model.vision and model.vision.kind == "pretrained" and model.vision.views:
        return "train.augment.mixup and cutmix blend pictures, of which nothing can be kept: set model.vision.views = 0"
    return None


def _check_mined(recipe: Recipe) -> str | None:
    if not recipe.mined.folders:
        return None
    if recipe.layout not in MINED_BESIDE:
        return f"mined.folders goes with the layouts {', '.join(MINED_BESIDE)}; the layout is {recipe.layout!r}"
    if HEAD_ROWS[type(recipe.output_head)].answers != "labels" or recipe.side_heads:
        return "mined.folders holds one label a moment; leave it out for values, tags and side_heads"
    return None


def _form(spec: StreamSpec) -> Hashable:
    """What must be equal for streams to be read as one batch."""
    return tuple((name, field.shape) for name, field in encoder_fields(spec).items())
