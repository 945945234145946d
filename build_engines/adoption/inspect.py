"""What an ONNX file is, whether it can be taken in, and a recipe to start from.

What a file cannot tell (a picture's colour order and normalisation, the channels' names and ranges, the labels) is
proposed as most have it, with a comment beside it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from onnx import ModelProto, TensorProto, ValueInfoProto

from build_engines.adoption import outputs
from build_engines.adoption.detection import Guess, guess_form
from build_engines.foreign import inputs, opset, proof, trim
from build_engines.foreign.inputs import dims_of
from build_engines.foreign.operators import with_known_operators
from build_engines.foreign.probe import probe
from build_engines.foreign.read import files_of, first_line, nodes_of, read_model
from build_engines.graphs import copied
from build_engines.recipe import OnnxInput, PixelRecipe
from build_engines.recipe.checks import MOST_CHANNELS
from build_engines.recipe.toml import toml
from edge_runtime.errors import UserError
from edge_runtime.specs import CameraStream, Channel, SensorStream, TextStream
from edge_runtime.streams import StreamSpec

SIDE, LENGTH = 224, 64
"""Of a picture, in pixels, and of a text, in pieces, where the file leaves them open."""
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Recurrent operator to the places of its first states (https://onnx.ai/onnx/operators/)."""
_STATE_NAME = re.compile(r"^(state|hidden|cell|[hc](_?0|_?in|n)?)(_.*)?$", re.IGNORECASE)
_RATE_NAME = re.compile(r"^(sr|(sample|sampling)_?rate)$", re.IGNORECASE)
_SOUND_NAME = re.compile(r"wave|audio|sound|speech|pcm|samples", re.IGNORECASE)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)


@dataclass(frozen=True)
class InputGuess:
    """What an input probably takes."""

    name: str
    tensor: str
    """Its type and shape, for people."""
    role: str
    """For people."""
    plan: OnnxInput
    stream: str = ""
    """The stream that it reads; empty for a constant."""
    spec: StreamSpec | None = None
    problem: str = ""
    """Why no stream can give it."""


@dataclass(frozen=True)
class Inspection:
    """An ONNX file in words."""

    path: Path
    summary: tuple[str, ...]
    """Lines for people."""
    inputs: tuple[InputGuess, ...]
    output: str
    """The one that the recipe reads."""
    values: int
    """How many values it holds."""
    head: str
    shares: bool
    """Whether its values look like probabilities that no softmax or sigmoid at the end made."""
    problem: str | None
    """Why it cannot be taken in as it is, in one line; None if it can."""
    detector: Guess | None = None
    """How its outputs are read, where it finds things in a picture."""


def inspect_model(path: Path, output: str = "", size: tuple[int, int] = (SIDE, SIDE)) -> Inspection:
    """Read `path` and say what it is; `output` is the one to decide by, by default the first that holds numbers; `size`
    is a picture's width and height where the file leaves them open.

    Raises UserError for what is no ONNX file and for an output that it lacks.
    """
    model = read_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    states = {
        node.input[place]
        for node in nodes_of(model.graph)
        for place in _STATES.get(node.op_type, ())
        if place < len(node.input)
    }
    guesses = tuple(_guess(value, value.name in states, size) for value in values)
    chosen = _chosen(model, output, path)
    detector = None if output else _detector(model, guesses, path)
    if detector is not None:
        summary = (*_summary(model, guesses, path, {}), f"  finds things in a picture: {detector.words}")
        read = tuple(_normalised(guess, detector.normalisation) for guess in guesses)
        return Inspection(path, summary, read, "detections", detector.labels, "detection", False, None, detector)
    trimmed = copied(model)
    trim.keep_outputs(trimmed, [chosen], str(path))
    kept = {value.name for value in trimmed.graph.input}
    read = tuple(guess for guess in guesses if guess.name in kept)
    try:
        answer, problem = _tried(trimmed, read, chosen, path), None
    except UserError as error:
        answer, problem = _Answer(0, "softmax", False), str(error)
    summary = tuple(_summary(model, guesses, path, {chosen: answer.values} if answer.values else {}))
    if answer.shares and (mean := outputs.averaged_shares(model, chosen)):
        summary = (*summary, f"  warning: {chosen} is the {mean}: {outputs.AVERAGED}")
    return Inspection(path, summary, read, chosen, answer.values, answer.head, answer.shares, problem)


def _normalised(guess: InputGuess, normalisation: str) -> InputGuess:
    """`guess` with a picture's normalisation by name, where there is one."""
    if not normalisation or guess.plan.pixels is None or guess.plan.pixels.normalisation == "none":
        return guess
    pixels = replace(guess.plan.pixels, normalisation=normalisation)
    return dataclasses.replace(guess, plan=replace(guess.plan, pixels=pixels))


def _detector(original: ModelProto, guesses: Sequence[InputGuess], path: Path) -> Guess | None:
    """How the outputs of a graph that takes one picture are read, by their shapes and by what comes out for noise."""
    pictures = [guess.spec for guess in guesses if isinstance(guess.spec, CameraStream)]
    if len(pictures) != 1 or any(guess.spec is not None and guess.spec not in pictures for guess in guesses):
        return None
    model, where = copied(original), str(path)
    try:
        model = with_known_operators(model, where)
        streams = {guess.stream: guess.spec for guess in guesses if guess.spec is not None}
        feeds = inputs.plan_feeds({guess.name: guess.plan for guess in guesses}, model, streams, {}, 1, where)
        inputs.fix_shapes(model, feeds)
        probe(model, where)
        values = proof.answers(proof.open_session(model, where), proof.drawn_inputs(model, feeds, 0))
    except Exception:  # whatever is wrong with it is told where a label is looked for
        return None
    return guess_form(values, (pictures[0].width, pictures[0].height))


def _guess(value: ValueInfoProto, is_state: bool, size: tuple[int, int]) -> InputGuess:
    kind, dims = value.type.tensor_type.elem_type, dims_of(value)
    name = value.name
    tensor = f"{TensorProto.DataType.Name(kind).lower()} {inputs.shown(dims)}"
    if kind == TensorProto.STRING:
        problem = _nothing_gives(name, tensor, kind, dims)
        return InputGuess(name, tensor, "words", OnnxInput(constant=0.0), problem=problem)
    if is_state or _STATE_NAME.match(name):
        return InputGuess(name, tensor, "a recurrent network's first state", OnnxInput(constant=0.0))
    if (layout := _picture_layout(dims)) is not None:
        return _picture(name, tensor, kind, dims, layout, size)
    if kind in _INTEGERS and len(dims) == 2 and inputs.role_of_text(name) == "places":
        places = list(range(dims[1] or LENGTH))
        return InputGuess(name, tensor, "the pieces' places", OnnxInput(constant=tuple(map(float, places))))
    if kind in _INTEGERS and len(dims) == 2:
        return _text(name, tensor, dims)
    if "mask" in name.lower() and len(dims) == 2:
        return _text(name, tensor, dims)
    if len(dims) in (1, 2, 3) and kind not in (*_INTEGERS, TensorProto.BOOL):
        return _readings(name, tensor, dims)
    if len(dims) == 0 and kind in _INTEGERS and _RATE_NAME.match(name):
        return InputGuess(name, tensor, "the sound's rate", OnnxInput(constant=16000))
    problem = "" if len(dims) < 2 else _nothing_gives(name, tensor, kind, dims)
    return InputGuess(name, tensor, "not known", OnnxInput(constant=0.0), problem=problem)


def _nothing_gives(name: str, tensor: str, kind: int, dims: Sequence[int | None]) -> str:
    """Why no stream gives such a tensor, and what to do."""
    start = f"input {name!r} is {tensor}"
    if kind == TensorProto.STRING:
        return f"{start}, words; a stream of text gives pieces: export the model behind its tokenizer"
    if len(dims) >= 4 and any(size in (1, 3) for size in dims[-4:]) and len(dims) == 5:
        return (
            f"{start}, several pictures; a stream gives the newest: give a source for each in a recipe of your own, or "
            "export a model of one picture"
        )
    if len(dims) == 4:
        return (
            f"{start}, neither a picture of 1 or 3 planes nor readings; give a source for each picture in a recipe of "
            "your own (their planes follow each other), or export it without that input"
        )
    return f"{start}, which no stream gives; export it without that input, or give a constant in a recipe of your own"


def _picture_layout(dims: Sequence[int | None]) -> str | None:
    if len(dims) not in (3, 4):
        return None
    first, *middle, last = dims[-3:]
    large = [size is None or size >= 8 for size in (*middle, last)]
    if first in (1, 3) and all(large):
        return "NCHW" if len(dims) == 4 or first == 3 else None
    large = [size is None or size >= 8 for size in (first, *middle)]
    if last in (1, 3) and all(large):
        return "NHWC" if len(dims) == 4 or last == 3 else None
    return None


def _picture(
    name: str, tensor: str, kind: int, dims: Sequence[int | None], layout: str, size: tuple[int, int]
) -> InputGuess:
    planes, height, width = dims[-3:] if layout == "NCHW" else (dims[-1], *dims[-3:-1])
    grey = planes == 1
    if kind == TensorProto.UINT8:
        normalisation = "none"
    else:
        normalisation = "unit" if grey else "imagenet" if layout == "NCHW" else "symmetric"
    plan = OnnxInput(
        source="stream:camera.front:image",
        pixels=PixelRecipe(
            layout="NCHW" if layout == "NCHW" else "NHWC",
            colour="GREY" if grey else "RGB",
            normalisation=normalisation,  # type: ignore[arg-type]
        ),
    )
    spec = CameraStream(width or size[0], height or size[1], rate_hz=30.0, max_age_ms=500.0, required=True)
    role = f"a picture, {layout}, {'grey' if grey else 'three planes'}"
    return InputGuess(name, tensor, role, plan, "camera.front", spec)


def _text(name: str, tensor: str, dims: Sequence[int | None]) -> InputGuess:
    spec = TextStream(dims[1] or LENGTH, max_age_ms=5000.0)
    role = inputs.role_of_text(name)
    if role == "types":
        return InputGuess(name, tensor, "a text's types", OnnxInput(source="stream:text:types"), "text", spec)
    if role == "mask":
        return InputGuess(name, tensor, "a text's mask", OnnxInput(source="stream:text:mask"), "text", spec)
    return InputGuess(name, tensor, "a text's pieces", OnnxInput(source="stream:text:ids"), "text", spec)


def _readings(name: str, tensor: str, dims: Sequence[int | None]) -> InputGuess:
    steps = (dims[1] or 1) if len(dims) == 3 else 1
    count = dims[-1] or 1
    if count > MOST_CHANNELS or (dims[-1] is None and _SOUND_NAME.search(name)):
        problem = (
            f"input {name!r} is {tensor}, as raw sound is; a stream of sound gives log-mel frames, a message at most "
            f"{MOST_CHANNELS} readings: export a model that reads one of these"
        )
        return InputGuess(name, tensor, "probably raw sound", OnnxInput(constant=0.0), problem=problem)
    channels = tuple(Channel(f"{_word(name)}_{number}", "", -1e9, 1e9) for number in range(count))
    spec = SensorStream(channels, rate_hz=10.0, max_age_ms=1000.0, window=steps, clip=0.0)
    role = f"{count} readings" + (f" at {steps} steps" if steps > 1 else "")
    stream = "sensors" if _word(name) in ("sensors", "readings", "input") else f"sensors.{_word(name)}"
    return InputGuess(name, tensor, role, OnnxInput(source=f"stream:{stream}:window"), stream, spec)


def _word(name: str) -> str:
    """`name` as a stream or channel may be called."""
    word = re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).strip("_.-")
    return (word if re.match("[a-z]", word) else f"x{word}")[:40]


def _chosen(model: ModelProto, output: str, path: Path) -> str:
    names = [value.name for value in model.graph.output]
    if output:
        if output not in names:
            raise UserError(f"{path}: has no output {output!r}; there are {', '.join(names)}")
        return output
    numbers = [value.name for value in model.graph.output if value.type.HasField("tensor_type")]
    if not numbers:
        raise UserError(f"{path}: none of its outputs holds numbers; export the model without lists and dictionaries")
    floats = [
        value.name
        for value in model.graph.output
        if value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    ]
    chosen: str = (floats or numbers)[0]
    return chosen


@dataclass(frozen=True)
class _Answer:
    """What the output that was chosen holds."""

    values: int
    head: str
    shares: bool


def _tried(trimmed: ModelProto, guesses: Sequence[InputGuess], output: str, path: Path) -> _Answer:
    """What comes out for something that is drawn. Raises UserError saying why the file cannot be taken in."""
    where = str(path)
    if problem := next((guess.problem for guess in guesses if guess.problem), ""):
        raise UserError(f"{where}: {problem}")
    model = with_known_operators(trimmed, where)
    streams = {guess.stream: guess.spec for guess in guesses if guess.spec is not None}
    plans = {guess.name: guess.plan for guess in guesses}
    feeds = inputs.plan_feeds(plans, model, streams, {}, len(streams), where)
    ended = {head: outputs.find_end(model, output, head) for head in ("softmax", "sigmoid")}
    inputs.fix_shapes(model, feeds)
    if (end := ended["softmax"]) is not None and end.number:
        outputs.take_off(model, end)
    probe(model, where)
    session = proof.open_session(model, where)
    try:
        values = proof.answers(session, proof.drawn_inputs(model, feeds, 0))[output]
    except Exception as error:  # ONNX Runtime raises a family of unrelated types
        opened = ", ".join(guess.name for guess in guesses if "?" in guess.tensor.partition(",")[2])
        hint = f"; the sizes that {opened} leaves open are guessed: give a picture's with --size" if opened else ""
        raise UserError(f"{where}: ONNX Runtime cannot run it ({first_line(error)}){hint}") from None
    if max((feed.batch for feed in feeds), default=1) > 1:
        values = values[:1]
    if sum(size > 1 for size in values.shape) > 1:
        raise UserError(
            f"{where}: its output {output!r} is {list(values.shape)}, not a value per label: what finds or paints "
            "things in a picture, or writes texts, is not served; choose another output (--output) or end it in classes"
        )
    head = "sigmoid" if ended["sigmoid"] or values.size == 1 else "softmax"
    numbers = values.astype(np.float64)
    between = bool(np.all((numbers > 0) & (numbers < 1))) and (values.size == 1 or abs(float(numbers.sum()) - 1) < 1e-3)
    return _Answer(values.size, head, between and not any(ended.values()))


def _summary(model: ModelProto, guesses: Sequence[InputGuess], path: Path, count: Mapping[str, int]) -> Iterator[str]:
    size = sum(file.stat().st_size for file in files_of(path))
    constants = [
        attribute.t
        for node in nodes_of(model.graph)
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    weights = sum(int(np.prod(tensor.dims)) for tensor in (*model.graph.initializer, *constants))
    maker = " ".join(part for part in (model.producer_name, model.producer_version) if part) or "unknown"
    yield f"{path.name}: opset {opset.opset_of(model)}, made by {maker}, {size / 1e6:.1f} MB, {weights:,} weights"
    for guess in guesses:
        yield f"  input  {guess.name}: {guess.tensor}: {guess.role}"
    for value in model.graph.output:
        if not value.type.HasField("tensor_type"):
            yield f"  output {value.name}: a list or dictionary"
            continue
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        values = f": {count[value.name]} values" if value.name in count else ""
        yield f"  output {value.name}: {kind} {inputs.shown(dims_of(value))}{values}"
    operators = Counter(f"{node.domain + '.' if node.domain else ''}{node.op_type}" for node in nodes_of(model.graph))
    yield "  nodes  " + ", ".join(f"{name} {often}" for name, often in operators.most_common(8))
    for head in ("softmax", "sigmoid"):
        for value in model.graph.output:
            if value.type.HasField("tensor_type") and (end := outputs.find_end(model, value.name, head)):
                yield f"  {value.name} ends in {end.words}, which is taken off: the head does the same"


def propose(inspection: Inspection, labels: Sequence[str], data: str = "DATA") -> str:
    """A recipe for the file, in TOML, with comments where something must be looked at. Raises UserError where `labels`
    are not as many as its output's values.
    """
    names = list(labels) or [f"label_{number}" for number in range(inspection.values)]
    wanted = inspection.values
    if labels and len(labels) != wanted:
        raise UserError(
            f"{inspection.path}: its output {inspection.output!r} holds {wanted} values, there are {len(labels)} labels"
        )
    streams = {guess.stream: guess.spec for guess in inspection.inputs if guess.spec is not None}
    layout = "images" if list(streams) == ["camera.front"] else "samples"
    safe = "none" if inspection.head == "sigmoid" else names[0] if names else ""
    if inspection.detector is not None:
        layout, safe = "detection", "undecided"
    lines = [
        f'name = "{_word(inspection.path.stem)}"',
        'version = "1.0.0"',
        f'layout = "{layout}"',
        f"labels = [{', '.join(map(toml, names))}]" + ("" if labels else "    # look: in the order of the output"),
        f'trigger = "{next(iter(streams), "")}"',
    ]
    for name, spec in streams.items():
        lines += ["", f"[streams.{toml(name)}]", *_stream_lines(spec)]
    lines += ["", "[decision]", f"safe_label = {toml(safe)}    # look: what is said when nothing is known"]
    lines += ["", "[onnx]", f"output = {toml(f'stage:net:{inspection.output}')}"]
    if inspection.head != "softmax":
        lines.append(f'head = "{inspection.head}"')
    if inspection.detector is not None:
        lines += ["", "[onnx.detection]", *inspection.detector.lines]
    if inspection.shares:
        lines.append("probabilities = true    # look: its values lie between 0 and 1")
    if any(isinstance(spec, TextStream) for spec in streams.values()):
        lines.append('tokenizer = "tokenizer.model"    # look: its own, or tokenizer.json, or vocab.txt')
    lines += ["", "[[onnx.stages]]", 'name = "net"', f"file = {toml(inspection.path.name)}"]
    for guess in inspection.inputs:
        lines += [f"[onnx.stages.inputs.{toml(guess.name)}]", *_input_lines(guess.plan)]
    lines += ["", "[quantise]", 'stages = ["net"]', ""]
    return "\n".join(lines)


def _stream_lines(spec: StreamSpec) -> Iterator[str]:
    if isinstance(spec, CameraStream):
        yield from ('kind = "camera"', f"width = {spec.width}", f"height = {spec.height}", "rate_hz = 30.0")
        yield from ("max_age_ms = 500.0", "required = true", 'fit = "stretch"    # look: or "letterbox", "crop"')
    elif isinstance(spec, TextStream):
        yield from ('kind = "text"', f"max_tokens = {spec.max_tokens}", f"max_age_ms = {spec.max_age_ms}")
    elif isinstance(spec, SensorStream):
        yield from ('kind = "sensors"', "rate_hz = 10.0", "max_age_ms = 1000.0", f"window = {spec.window}")
        yield "channels = [    # look: names, units, and the ranges that physics allows"
        for channel in spec.channels:
            yield f'  {{ name = "{channel.name}", unit = "", minimum = -1e9, maximum = 1e9 }},'
        yield "]"


def _input_lines(plan: OnnxInput) -> Iterator[str]:
    if plan.constant is not None:
        value = plan.constant if isinstance(plan.constant, (int, float)) else [int(one) for one in plan.constant]
        yield f"constant = {value}    # look: always that"
        return
    yield f"source = {toml(str(plan.source))}"
    if plan.pixels is not None:
        pixels = plan.pixels
        yield (
            f'pixels = {{ layout = "{pixels.layout}", colour = "{pixels.colour}", normalisation = '
            f'"{pixels.normalisation}" }}    # look: as the model was trained'
        )
