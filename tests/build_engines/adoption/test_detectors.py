"""Detectors' outputs in the forms that people have, brought into one: against the plain reading of each form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engines.adoption.adopt import adopt
from build_engines.adoption.inspect import inspect_model, propose
from build_engines.recipe import OnnxRecipe, load_recipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.pipeline import Pipeline

WIDTH, HEIGHT, LABELS = 64, 48, 3
F = np.float32
Arrays = Mapping[str, NDArray[Any]]
RNG = np.random.default_rng(5)


def graph(file: Path, outputs: Arrays, batch: int = 1) -> None:
    """A graph that gives `outputs`, each times the brightness of its picture (0 to 1)."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["bright"], keepdims=0),
        helper.make_node("Slice", ["bright", "zero", "one"], ["first"]),
    ]
    constants = {"axes": np.array([1, 2, 3]), "zero": np.array([0]), "one": np.array([1])}
    values = []
    for name, array in outputs.items():
        constants[f"{name}/all"] = array.astype(np.float32)
        nodes.append(helper.make_node("Mul", [f"{name}/all", "first"], [f"{name}/float"]))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        nodes.append(helper.make_node("Cast", [f"{name}/float"], [name], to=kind))
        values.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, HEIGHT, WIDTH])
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [picture], values, initialisers),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    onnx.save(model, file)


def recipe(detection: str, labels: int = LABELS, output: str = "stage:net:detections") -> str:
    names = ", ".join(f'"label_{number}"' for number in range(labels))
    return f"""name = "own"
version = "1.0.0"
layout = "detection"
labels = [{names}]
trigger = "camera.front"
[streams."camera.front"]
kind = "camera"
width = {WIDTH}
height = {HEIGHT}
rate_hz = 10.0
max_age_ms = 500.0
required = true
[decision]
safe_label = "undecided"
[onnx]
output = "{output}"
head = "detection"
[onnx.detection]
{detection}
[[onnx.stages]]
name = "net"
file = "net.onnx"
[onnx.stages.inputs.images]
source = "stream:camera.front:image"
pixels = {{ normalisation = "unit" }}
"""


def adopted(folder: Path, outputs: Arrays, detection: str, **more: Any) -> Bundle:
    graph(folder / "net.onnx", outputs)
    (folder / "own.toml").write_text(recipe(detection, **more))
    read, digest = load_recipe(folder / "own.toml")
    assert isinstance(read, OnnxRecipe)
    return adopt(read, digest, folder / "model")


def found(bundle: Bundle) -> NDArray[np.float32]:
    """[N, 4 + labels] of a white picture."""
    session = onnxruntime.InferenceSession(bundle.read("stages/net.fp32.onnx"), providers=["CPUExecutionProvider"])
    (stage,) = bundle.manifest.stages
    white = np.full((1, HEIGHT, WIDTH, 3), 255, np.uint8)
    (output,) = session.run(None, {stage.inputs[0].name: white})
    assert [value.shape for value in stage.outputs] == [output.shape]
    with closing(Pipeline(bundle)) as pipeline:
        assert pipeline.predict({"camera.front": white[0]}).verdict.reason is None
    return np.asarray(output[0], np.float32)


def sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values.astype(np.float64))))


def softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def corners(middles: NDArray[Any]) -> NDArray[np.float64]:
    """Left, top, right, bottom of middle, width and height, one after the other."""
    rows = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in middles.astype(np.float64)]
    return np.array(rows)


PIXELS = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
MIDDLES = RNG.random((20, 4)) * (WIDTH, HEIGHT, 20, 20)
SCORES = RNG.random((20, LABELS))
ROWS = np.concatenate([MIDDLES, SCORES], axis=1).astype(F)
BOXES = corners(MIDDLES) / PIXELS
LOGITS = RNG.normal(size=(20, LABELS)).astype(F)
OBJECTNESS = RNG.random((20, 1)).astype(F)


@pytest.mark.parametrize("name", ["planes", "rows", "bare", "objectness", "logits", "half", "corners"])
def test_yolo(tmp_path: Path, name: str) -> None:
    settings = 'form = "yolo"\nscores = ["output0"]\n'
    output, boxes, scores = ROWS.T[None], BOXES, SCORES
    if name == "rows":
        output = ROWS[None]
    elif name == "bare":
        output = ROWS
    elif name == "objectness":
        output = np.concatenate([ROWS[:, :4], OBJECTNESS, ROWS[:, 4:]], axis=1)[None]
        scores = SCORES * OBJECTNESS
    elif name == "logits":
        output = np.concatenate([ROWS[:, :4], LOGITS], axis=1).T[None]
        scores, settings = sigmoid(LOGITS), settings + 'activation = "sigmoid"\n'
    elif name == "half":
        output = output.astype(np.float16)
    elif name == "corners":
        output = np.concatenate([BOXES, SCORES], axis=1).astype(F)[None]
        settings += 'sides = "corners"\nunits = "shares"\n'
    found_ = found(adopted(tmp_path, {"output0": output}, settings))
    tolerance = 2e-3 if name == "half" else 1e-5
    np.testing.assert_allclose(found_, np.concatenate([boxes, scores], axis=1), atol=tolerance)


@pytest.mark.parametrize("nothing", [False, True])
def test_detr(tmp_path: Path, nothing: bool) -> None:
    logits = RNG.normal(size=(1, 20, LABELS + nothing)).astype(F) * 3
    places = (MIDDLES / PIXELS).astype(F)[None]
    bundle = adopted(
        tmp_path, {"logits": logits, "pred_boxes": places, "aux": places},
        'form = "detr"\nscores = ["logits"]\nboxes = ["pred_boxes"]\nmax_overlap = 1.0\n',
    )  # fmt: skip
    scores = softmax(logits[0])[:, :-1] if nothing else sigmoid(logits[0])
    np.testing.assert_allclose(found(bundle), np.concatenate([BOXES, scores], axis=1), atol=1e-5)
    assert bundle.manifest.head.max_overlap == 1.0  # type: ignore[union-attr]


def nanodet(strides: tuple[int, ...], bins: int, offset: float) -> tuple[list[Any], list[Any], NDArray[np.float64]]:
    """Scores and distances by scale, and the boxes in shares, cell after cell."""
    scores, distances, boxes = [], [], []
    for stride in strides:
        rows, columns = ceil(HEIGHT / stride), ceil(WIDTH / stride)
        scores.append(RNG.random((1, rows * columns, LABELS)).astype(F))
        distances.append(RNG.normal(size=(1, rows * columns, 4 * bins)).astype(F))
        for cell in range(rows * columns):
            x, y = (cell % columns + offset) * stride, (cell // columns + offset) * stride
            sides = [
                sum(
                    chance * bin
                    for bin, chance in enumerate(softmax(distances[-1][0, cell, k * bins : (k + 1) * bins]))
                )
                * stride
                for k in range(4)
            ]
            boxes.append([x - sides[0], y - sides[1], x + sides[2], y + sides[3]])
    return scores, distances, np.array(boxes) / PIXELS


@pytest.mark.parametrize(("strides", "bins", "offset"), [((8, 16, 32), 11, 0.5), ((8, 16, 32, 64), 8, 0.0)])
def test_nanodet_in_scales(tmp_path: Path, strides: tuple[int, ...], bins: int, offset: float) -> None:
    scores, distances, boxes = nanodet(strides, bins, offset)
    outputs = {f"cls_{s}": array for s, array in zip(strides, scores, strict=True)}
    outputs |= {f"reg_{s}": array for s, array in zip(strides, distances, strict=True)}
    settings = (
        f'form = "nanodet"\nscores = {[f"cls_{s}" for s in strides]}\nboxes = {[f"reg_{s}" for s in strides]}\n'
        f"offset = {offset}\n"
    )
    every = np.concatenate([array[0] for array in scores])
    np.testing.assert_allclose(
        found(adopted(tmp_path, outputs, settings)), np.concatenate([boxes, every], 1), atol=1e-4
    )


def test_nanodet_in_one_tensor_with_logits(tmp_path: Path) -> None:
    scores, distances, boxes = nanodet((8, 16, 32, 64), 8, 0.0)
    every = np.concatenate([array[0] for array in scores])
    both = np.concatenate([every, np.concatenate([array[0] for array in distances])], axis=1)[None]
    settings = 'form = "nanodet"\nscores = ["output"]\nactivation = "sigmoid"\noffset = 0.0\n'
    wanted = np.concatenate([boxes, sigmoid(every)], axis=1)
    np.testing.assert_allclose(found(adopted(tmp_path, {"output": both}, settings)), wanted, atol=1e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_found_already(tmp_path: Path, apart: bool) -> None:
    numbers = RNG.integers(0, LABELS + 1, 20)  # one class more than there are labels: nobody's
    best = SCORES[:, 0].astype(F)
    pixels = (BOXES * PIXELS).astype(F)
    outputs: Arrays
    if apart:
        outputs = {"boxes": pixels[None], "scores": best[None], "labels": numbers.astype(np.int64)[None]}
        settings = 'form = "list"\nscores = ["scores"]\nboxes = ["boxes"]\nclasses = "labels"\n'
    else:
        outputs = {"output0": np.concatenate([pixels, best[:, None], numbers[:, None].astype(F)], axis=1)[None]}
        settings = 'form = "list"\nscores = ["output0"]\n'
    wanted = np.zeros((20, LABELS))
    for row, number in enumerate(numbers):
        if number < LABELS:
            wanted[row, number] = best[row]
    output = found(adopted(tmp_path, outputs, settings))
    np.testing.assert_allclose(output, np.concatenate([BOXES, wanted], axis=1), atol=1e-5)


def test_plain_is_taken_as_it_is(tmp_path: Path) -> None:
    plain = np.concatenate([BOXES, SCORES], axis=1).astype(F)[None]
    bundle = adopted(tmp_path, {"found": plain}, "", output="stage:net:found")
    np.testing.assert_allclose(found(bundle), plain[0], atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "settings", "why"),
    [
        ({"o": np.zeros((1, 20, 9), F)}, 'form = "yolo"\nscores = ["o"]',
         r"wants \[1, 7, N\], \[1, N, 7\] or \[1, N, 8\]"),
        ({"o": np.zeros((1, 77, 39), F)}, 'form = "nanodet"\nscores = ["o"]', "77 cells fit no strides of a 64 x 48"),
        ({"o": np.zeros((1, 5, 3), F), "b": np.zeros((1, 5, 5), F)}, 'form = "detr"\nscores = ["o"]\nboxes = ["b"]',
         r"output 'b' is \[1, 5, 5\]; .* wants boxes \[1, N, 4\]"),
        ({"o": np.zeros((1, 20, 7), F)}, 'form = "yolo"\nscores = ["p"]', "has no output 'p'"),
        ({"detections": np.zeros((1, 20, 7), F)}, 'form = "yolo"\nscores = ["detections"]', "'detections' already"),
        ({"o": np.zeros((1, 20, 9), F)}, "", r"has no output 'detections'"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_refused(tmp_path: Path, outputs: Arrays, settings: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        adopted(tmp_path, outputs, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ('form = "yolo"', "form = 'yolo' needs `scores`"),
        ('form = "yolo"\nscores = ["a", "b"]', "reads one output with scores, not 2"),
        ('form = "detr"\nscores = ["a"]', "form = 'detr' needs `boxes`"),
        ('form = "nanodet"\nscores = ["a", "b"]\nboxes = ["c"]', "2 outputs with scores and 1 with boxes"),
        ('form = "list"\nscores = ["a"]\nboxes = ["b"]', "needs boxes and classes, or neither"),
        ('form = "yolo"\nscores = ["a"]\nclasses = "b"', "has no `classes`"),
        ('scores = ["a"]', "form = 'plain' reads onnx.output"),
        ('form = "yolo"\nscores = ["a"]\nmost = 65', "most"),
        ('form = "yolo"\nscores = ["a"]\ncamera = "camera.rear"', "'camera.rear' is no camera"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, settings: str, why: str) -> None:
    (tmp_path / "own.toml").write_text(recipe(settings))
    with pytest.raises(ConfigError, match=why):
        load_recipe(tmp_path / "own.toml")


CELLS = sum(ceil(WIDTH / stride) * ceil(HEIGHT / stride) for stride in (8, 16, 32))
CELLS_PLUS = CELLS + ceil(WIDTH / 64) * ceil(HEIGHT / 64)
SEEN: dict[str, tuple[Arrays, str, int]] = {
    "yolo": ({"output0": RNG.random((1, 7, CELLS)).astype(F)}, "as YOLO's without anchors", 3),
    "yolo, anchors": ({"o": RNG.random((1, 3 * CELLS, 8)).astype(F)}, "with an objectness and 3 scores", 3),
    "detr": (
        {"logits": RNG.normal(size=(1, 20, 4)).astype(F), "pred_boxes": RNG.random((1, 20, 4)).astype(F)[..., :4]},
        "", 0,
    ),
    "detr, five": (
        {"logits": RNG.normal(size=(1, 20, 5)).astype(F), "pred_boxes": RNG.random((1, 20, 4)).astype(F)},
        "20 things, 5 scores and a box for each, as DETR's", 5,
    ),
    "nanodet": (
        {f"cls_{s}": a for s, a in zip((8, 16, 32), nanodet((8, 16, 32), 11, 0.5)[0], strict=True)}
        | {f"reg_{s}": a for s, a in zip((8, 16, 32), nanodet((8, 16, 32), 11, 0.5)[1], strict=True)},
        "distances from cells in 11 bins, 3 scores, at 3 scales", 3,
    ),
    "nanodet-plus": (
        {"output": np.concatenate([RNG.random((1, CELLS_PLUS, 3)), RNG.normal(size=(1, CELLS_PLUS, 32))], 2).astype(F)},
        "3 scores and distances in 8 bins, as NanoDet-Plus'", 3,
    ),
    "list": ({"output0": RNG.random((1, 300, 6)).astype(F)}, "a list of 300 boxes", 1),
    "a map": ({"map": RNG.random((1, 6, 8)).astype(F)}, "", 0),
}  # fmt: skip


@pytest.mark.parametrize("what", SEEN)
def test_inspect_knows_the_forms_and_proposes_a_recipe_that_is_taken_in(tmp_path: Path, what: str) -> None:
    outputs, words, labels = SEEN[what]
    graph(tmp_path / "net.onnx", outputs)
    inspection = inspect_model(tmp_path / "net.onnx")
    if not words:
        assert inspection.detector is None, "four scores or four sides: nobody can tell; a map is no list of things"
        return
    assert inspection.problem is None and words in inspection.summary[-1]
    assert inspection.values == labels
    (tmp_path / "own.toml").write_text(propose(inspection, ()).replace("imagenet", "unit"))
    read, digest = load_recipe(tmp_path / "own.toml")
    assert isinstance(read, OnnxRecipe) and read.layout == "detection"
    found(adopt(read, digest, tmp_path / "model"))
