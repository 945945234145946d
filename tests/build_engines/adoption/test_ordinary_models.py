"""Graphs as people have them, adopted and run through the device's pipeline: the answers that the file gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from build_engines.adoption.adopt import adopt
from build_engines.recipe import OnnxRecipe, load_recipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from tests.tiny import tokenizer_model

F, I64 = TensorProto.FLOAT, TensorProto.INT64
CAMERA = '[streams."camera.front"]\nkind = "camera"\nwidth = 24\nheight = 16\nrate_hz = 10.0\nmax_age_ms = 500.0\n'
SENSORS = (
    '[streams.sensors]\nkind = "sensors"\nrate_hz = 10.0\nmax_age_ms = 1000.0\nwindow = {window}\nchannels = [\n'
    '  {{ name = "speed", unit = "m/s", minimum = -100.0, maximum = 100.0 }},\n'
    '  {{ name = "load", unit = "kg", minimum = 0.0, maximum = 5000.0 }},\n'
    '  {{ name = "heat", unit = "C", minimum = -50.0, maximum = 500.0 }},\n]\n'
)
TEXT = '[streams.text]\nkind = "text"\nmax_tokens = 6\nmax_age_ms = 5000.0\n'
READINGS = {"speed": -42.5, "load": 1234.0, "heat": 88.25}
"""Far outside what standardised values are clipped at."""


def recipe(
    inputs: Mapping[str, str],
    streams: str,
    output: str = "logits",
    labels: int = 3,
    file: str = "net.onnx",
    more: str = "",
) -> str:
    """A recipe of one stage; `inputs` is the graph's input to its settings."""
    names = ", ".join(f'"label_{number}"' for number in range(labels))
    trigger = "camera.front" if "camera.front" in streams else "sensors" if "sensors" in streams else "text"
    rows = "".join(f'[onnx.stages.inputs."{name}"]\n{settings}\n' for name, settings in inputs.items())
    return (
        f'name = "own"\nversion = "1.0.0"\nlayout = "samples"\nlabels = [{names}]\ntrigger = "{trigger}"\n{streams}'
        f'[decision]\nsafe_label = "label_0"\n[onnx]\noutput = "stage:net:{output}"\n{more}'
        f'[[onnx.stages]]\nname = "net"\nfile = "{file}"\n{rows}'
    )


def adopted(folder: Path, text: str) -> tuple[Bundle, list[str]]:
    """The bundle of the recipe `text`, and what was told."""
    (folder / "own.toml").write_text(text)
    read, digest = load_recipe(folder / "own.toml")
    assert isinstance(read, OnnxRecipe)
    told: list[str] = []
    return adopt(read, digest, folder / "model", told.append), told


def decided(bundle: Bundle, **inputs: Any) -> NDArray[np.float64]:
    """Probabilities of the labels, in order, as the device's pipeline gives them."""
    with closing(Pipeline(bundle)) as pipeline:
        verdict = pipeline.predict({name.replace("__", "."): value for name, value in inputs.items()}).verdict
    assert verdict.source == "model", verdict.reason
    return np.array(list(verdict.probabilities.values()))


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64).reshape(-1) - np.max(logits))
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def file_says(path: Path, output: str, **inputs: NDArray[Any]) -> NDArray[Any]:
    """What ONNX Runtime makes of the file as it lies there."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run([output], inputs)
    result: NDArray[Any] = answer
    return result


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3)).astype(np.uint8)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    constants: Mapping[str, NDArray[Any]] = {},
    opset: int = 17,
    domains: Mapping[str, int] = {},
) -> ModelProto:
    made = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, at) for name, at in domains.items())]
    return helper.make_model(made, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def picture_net(
    layout: str = "NCHW", planes: int = 3, kind: int = F, shape: Sequence[Any] = (), seed: int = 0
) -> ModelProto:
    """A convolution, a mean over the picture, three answers."""
    rng = np.random.default_rng(seed)
    dtype = helper.tensor_dtype_to_np_dtype(kind if kind != TensorProto.UINT8 else F)
    nodes, last = [], "input"
    if kind == TensorProto.UINT8:
        nodes += [
            helper.make_node("Cast", [last], ["float"], to=F),
            helper.make_node("Div", ["float", "most"], ["share"]),
        ]
        last = "share"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], ["planes"], perm=[0, 3, 1, 2]))
        last = "planes"
    nodes += [
        helper.make_node("Conv", [last, "kernel"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    constants = {
        "kernel": rng.normal(size=(4, planes, 3, 3)).astype(dtype),
        "weights": rng.normal(size=(4, 3)).astype(dtype),
    } | ({"most": np.array(255, np.float32)} if kind == TensorProto.UINT8 else {})
    default = ("n", planes, 16, 24) if layout == "NCHW" else ("n", 16, 24, planes)
    out = F if kind == TensorProto.UINT8 else kind
    return graph(nodes, {"input": (kind, shape or default)}, {"logits": (out, ("n", 3))}, constants)


class Net(nn.Module):
    """What people train: convolutions with batch norms, dropout, pooling, a linear head."""

    def __init__(self, end: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(),
            nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3), end or nn.Identity(),
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.body(pixels)
        return answer


def export(net: nn.Module, path: Path, opset: int = 17, dynamo: bool = False, **more: Any) -> None:
    torch.manual_seed(3)
    batch = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"input": {0: "n"}}}
    torch.onnx.export(
        net.eval(), (torch.rand(2, 3, 16, 24),), str(path), input_names=["input"], output_names=["logits"],
        opset_version=opset, dynamo=dynamo, **batch, **more,
    )  # fmt: skip


PIXELS = 'source = "stream:camera.front:image"\npixels = {{ {} }}'


def unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB planes, 0 to 1."""
    return (image[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("dynamo", "opset"), [(False, 9), (False, 13), (False, 18), (True, 18), (True, 21), (True, 23)]
)
def test_both_exporters_at_many_opsets(tmp_path: Path, dynamo: bool, opset: int) -> None:
    export(Net(), tmp_path / "net.onnx", opset, dynamo)
    bundle, _ = adopted(tmp_path, recipe({"input": PIXELS.format("")}, CAMERA))
    stored = onnx.load_from_string(bundle.read("stages/net.fp32.onnx"))
    assert [entry.version for entry in stored.opset_import] == [20]
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input=unit(picture())))
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 10, 11, 12, 14, 20, 21, 22, 23])
def test_every_opset_from_7_on(tmp_path: Path, opset: int) -> None:
    """With operators whose definition changed on the way: Squeeze (13), Clip (11)."""
    late = opset >= 13
    clip = helper.make_node(
        "Clip",
        ["sum", "low", "high"] if opset >= 11 else ["sum"],
        ["cut"],
        **({} if opset >= 11 else {"min": -3.0, "max": 3.0}),
    )
    squeeze = helper.make_node(
        "Squeeze", ["cut", "axes"] if late else ["cut"], ["flat"], **({} if late else {"axes": [1]})
    )
    constants: dict[str, NDArray[Any]] = {"weights": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)}
    if opset >= 11:
        constants |= {"low": np.array(-3, np.float32), "high": np.array(3, np.float32)}
    if late:
        constants["axes"] = np.array([1], np.int64)
    net = graph(
        [helper.make_node("MatMul", ["readings", "weights"], ["sum"]), clip, squeeze],
        {"readings": (F, ("n", 1, 3))}, {"flat": (F, ("n", 3))}, constants, opset,
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    source = 'source = "stream:sensors:window"'
    bundle, _ = adopted(tmp_path, recipe({"readings": source}, SENSORS.format(window=1), "flat"))
    values = np.array([[list(READINGS.values())]], np.float32)
    expected = softmax(file_says(tmp_path / "net.onnx", "flat", readings=values))
    assert decided(bundle, sensors=READINGS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("files", ["one", "many"])
def test_weights_in_other_files_are_taken_in(tmp_path: Path, files: str) -> None:
    export(Net(), tmp_path / "whole.onnx")
    net = onnx.load(str(tmp_path / "whole.onnx"))
    onnx.save(
        net,
        str(tmp_path / "net.onnx"),
        save_as_external_data=True,
        location="net.onnx.data" if files == "one" else None,
        all_tensors_to_one_file=files == "one",
        size_threshold=0,
    )
    text = recipe({"input": PIXELS.format("")}, CAMERA)
    bundle, _ = adopted(tmp_path, text)
    expected = softmax(file_says(tmp_path / "whole.onnx", "logits", input=unit(picture())))
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)
    before = bundle.manifest.training["net_sha256"]
    weights = next(file for file in tmp_path.iterdir() if file.suffix not in (".onnx", ".toml") and file.is_file())
    changed = bytearray(weights.read_bytes())
    changed[2] ^= 64
    weights.write_bytes(bytes(changed))
    assert adopted(tmp_path, text)[0].manifest.training["net_sha256"] != before
    weights.write_bytes(b"")
    with pytest.raises(UserError, match=r"has 0 bytes, .* wants .*; copy it again"):
        adopted(tmp_path, text)
    weights.unlink()
    with pytest.raises(UserError, match="which is not there; copy it beside the graph"):
        adopted(tmp_path, text)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "link.bin"])
def test_weights_outside_the_folder_are_never_opened(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    net = picture_net()
    tensor = net.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (folder / "net.onnx").write_bytes(net.SerializeToString())
    with pytest.raises(UserError, match=r"lie outside its folder, in '.*'; put the files beside the graph"):
        adopted(folder, recipe({"input": PIXELS.format("")}, CAMERA))


@pytest.mark.parametrize(
    "end", ["softmax", "softmax in its own axis", "written out", "log softmax", "behind a reshape"]
)
def test_a_softmax_at_the_end_is_taken_off(tmp_path: Path, end: str) -> None:
    ends: dict[str, list[onnx.NodeProto]] = {
        "softmax": [helper.make_node("Softmax", ["sum"], ["logits"])],
        "softmax in its own axis": [helper.make_node("Softmax", ["sum"], ["logits"], axis=1)],
        "written out": [
            helper.make_node("ReduceMax", ["sum"], ["top"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["sum", "top"], ["below"]),
            helper.make_node("Exp", ["below"], ["powers"]),
            helper.make_node("ReduceSum", ["powers", "axes"], ["total"], keepdims=1),
            helper.make_node("Div", ["powers", "total"], ["logits"]),
        ],
        "log softmax": [helper.make_node("LogSoftmax", ["sum"], ["logits"])],
        "behind a reshape": [
            helper.make_node("Softmax", ["sum"], ["shares"]),
            helper.make_node("Reshape", ["shares", "shape"], ["deep"]),
            helper.make_node("Cast", ["deep"], ["logits"], to=TensorProto.FLOAT),
        ],
    }  # fmt: skip
    constants = {
        "weights": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32),
        "axes": np.array([1], np.int64),
        "shape": np.array([-1, 3, 1, 1], np.int64),
    }
    shape = ("n", 3, 1, 1) if end == "behind a reshape" else ("n", 3)
    net = graph(
        [helper.make_node("MatMul", ["readings", "weights"], ["sum"]), *ends[end]],
        {"readings": (F, ("n", 3))}, {"logits": (F, shape)}, constants,
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    bundle, told = adopted(tmp_path, recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1)))
    # Readings so large that a softmax rounds all answers but one to nothing: its logarithm would know no order.
    logits = np.array(list(READINGS.values())) @ constants["weights"].astype(np.float64)
    assert decided(bundle, sensors=READINGS) == pytest.approx(softmax(logits), abs=1e-6)
    assert any("is taken off" in line for line in told) == (end != "log softmax")
    stored = onnx.load_from_string(bundle.read("stages/net.fp32.onnx"))
    assert not {"Softmax", "Exp", "Log"} & {node.op_type for node in stored.graph.node}


def test_a_sigmoid_at_the_end_is_taken_off(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    net = graph(
        [
            helper.make_node("MatMul", ["readings", "weights"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["logits"]),
        ],
        {"readings": (F, ("n", 3))},
        {"logits": (F, ("n", 2))},
        {"weights": weights},
    )
    onnx.save(net, tmp_path / "net.onnx")
    text = recipe(
        {"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1), labels=2, more='head = "sigmoid"\n'
    ).replace('safe_label = "label_0"', 'safe_label = "none"')
    bundle, told = adopted(tmp_path, text)
    assert any("Sigmoid" in line and "is taken off" in line for line in told)
    small = {name: value / 1000 for name, value in READINGS.items()}
    expected = 1 / (1 + np.exp(-np.array(list(small.values())) @ weights.astype(np.float64)))
    with closing(Pipeline(bundle)) as pipeline:
        verdict = pipeline.predict({"sensors": small}).verdict
    assert [verdict.probabilities[f"label_{number}"] for number in range(2)] == pytest.approx(expected, abs=1e-5)


def test_probabilities_of_another_sort_become_logits_where_the_recipe_says_so(tmp_path: Path) -> None:
    """Shares that no softmax made: a vote of trees."""
    net = graph(
        [
            helper.make_node("Abs", ["readings"], ["sizes"]),
            helper.make_node("ReduceSum", ["sizes", "axes"], ["total"], keepdims=1),
            helper.make_node("Div", ["sizes", "total"], ["logits"]),
        ],
        {"readings": (F, ("n", 3))}, {"logits": (F, ("n", 3))}, {"axes": np.array([1], np.int64)},
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    text = recipe(
        {"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1), more="probabilities = true\n"
    )
    bundle, _ = adopted(tmp_path, text)
    sizes = np.abs(list(READINGS.values()))
    assert decided(bundle, sensors=READINGS) == pytest.approx(sizes / sizes.sum(), abs=1e-6)


def test_the_odds_of_a_sigmoid_head_where_the_recipe_says_so(tmp_path: Path) -> None:
    """A share that no sigmoid made: how much of a sum one reading is."""
    net = graph(
        [
            helper.make_node("ReduceSum", ["readings", "axes"], ["total"], keepdims=1),
            helper.make_node("Div", ["readings", "total"], ["logits"]),
        ],
        {"readings": (F, ("n", 3))}, {"logits": (F, ("n", 3))}, {"axes": np.array([1], np.int64)},
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    more = 'head = "sigmoid"\nprobabilities = true\n'
    text = recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1), more=more)
    bundle, _ = adopted(tmp_path, text.replace('safe_label = "label_0"', 'safe_label = "none"'))
    with closing(Pipeline(bundle)) as pipeline:
        verdict = pipeline.predict({"sensors": {"speed": 1.0, "load": 3.0, "heat": 0.0}}).verdict
    assert [verdict.probabilities[f"label_{n}"] for n in range(3)] == pytest.approx([0.25, 0.75, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("layout", "colour", "kind"),
    [
        ("NCHW", "RGB", F), ("NCHW", "BGR", F), ("NHWC", "RGB", F), ("NHWC", "BGR", F), ("NCHW", "GREY", F),
        ("NHWC", "GREY", F), ("NCHW", "RGB", TensorProto.FLOAT16), ("NHWC", "RGB", TensorProto.UINT8),
        ("NCHW", "BGR", TensorProto.UINT8),
    ],
)  # fmt: skip
def test_pictures_in_every_form(tmp_path: Path, layout: str, colour: str, kind: int) -> None:
    planes = 1 if colour == "GREY" else 3
    onnx.save(picture_net(layout, planes, kind), tmp_path / "net.onnx")
    raw = kind == TensorProto.UINT8
    settings = f'layout = "{layout}", colour = "{colour}", normalisation = "{"none" if raw else "symmetric"}"'
    bundle, _ = adopted(tmp_path, recipe({"input": PIXELS.format(settings)}, CAMERA))
    (stage,) = bundle.manifest.stages
    assert (stage.inputs[0].dtype, stage.inputs[0].shape) == ("uint8", (1, 16, 24, 3))
    given = picture().astype(np.float64)
    if colour == "GREY":
        given = given @ np.array([[0.114], [0.587], [0.299]])
    elif colour == "RGB":
        given = given[..., ::-1]
    given = given if raw else given / 127.5 - 1
    given = given.transpose(2, 0, 1)[None] if layout == "NCHW" else given[None]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input=np.ascontiguousarray(given.astype(dtype))))
    assert decided(bundle, camera__front=picture()) == pytest.approx(
        expected, abs=5e-3 if kind == TensorProto.FLOAT16 else 1e-5
    )


@pytest.mark.parametrize(
    ("name", "colour", "expected"),
    [
        ("imagenet", "RGB", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", "BGR", lambda x: x - [103.939, 116.779, 123.68]),
        ("symmetric", "RGB", lambda x: x / 127.5 - 1),
        ("unit", "BGR", lambda x: x / 255),
        ("none", "RGB", lambda x: x),
        (
            "clip",
            "RGB",
            lambda x: (x / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711],
        ),
    ],
)
def test_normalisations_by_name(tmp_path: Path, name: str, colour: str, expected: Any) -> None:
    onnx.save(picture_net("NHWC"), tmp_path / "net.onnx")
    settings = f'layout = "NHWC", colour = "{colour}", normalisation = "{name}"'
    bundle, _ = adopted(tmp_path, recipe({"input": PIXELS.format(settings)}, CAMERA))
    given = picture().astype(np.float64)
    given = expected(given[..., ::-1] if colour == "RGB" else given).astype(np.float32)[None]
    right = softmax(file_says(tmp_path / "net.onnx", "logits", input=given))
    assert decided(bundle, camera__front=picture()) == pytest.approx(right, abs=1e-4)


def test_a_picture_without_a_batch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["logits"], keepdims=0),
    ]
    net = graph(
        nodes, {"input": (F, (3, "h", "w"))}, {"logits": (F, (3,))}, {"axes": np.array([1, 2], np.int64)}, opset=18
    )
    onnx.save(net, tmp_path / "net.onnx")
    bundle, _ = adopted(tmp_path, recipe({"input": PIXELS.format("")}, CAMERA))
    expected = softmax(unit(picture())[0].mean((1, 2)))
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_fixed_batch_is_served_one_by_one(tmp_path: Path, stubborn: bool) -> None:
    net = picture_net(shape=(4, 3, 16, 24))
    if stubborn:  # a constant somewhere inside knows the batch
        net.graph.initializer.append(numpy_helper.from_array(np.array([4, 4], np.int64), "batch"))
        net.graph.node[3].CopyFrom(helper.make_node("Reshape", ["mean", "batch"], ["flat"]))
    onnx.save(net, tmp_path / "net.onnx")
    bundle, told = adopted(tmp_path, recipe({"input": PIXELS.format("")}, CAMERA))
    assert any(("filled with copies" if stubborn else "is 1 now") in line for line in told)
    four = np.repeat(unit(picture()), 4, axis=0)
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input=four)[0])
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1, 3), ("n", 3), (1, 1, 3), (None, None)])
def test_readings_come_unscaled_and_uncut(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32) / 100
    out = (3,) if len(shape) == 1 else ("n", 3) if len(shape) == 2 else ("n", 1, 3)
    net = graph(
        [helper.make_node("MatMul", ["readings", "weights"], ["logits"])],
        {"readings": (F, shape)}, {"logits": (F, out)}, {"weights": weights},
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    bundle, _ = adopted(tmp_path, recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1)))
    expected = softmax(np.array(list(READINGS.values())) @ weights)
    assert decided(bundle, sensors=READINGS) == pytest.approx(expected, abs=1e-5)


def test_channels_by_name_and_a_recipe_that_says_to_cut(tmp_path: Path) -> None:
    net = graph(
        [helper.make_node("Identity", ["readings"], ["logits"])], {"readings": (F, (1, 2))}, {"logits": (F, (1, 2))}
    )
    onnx.save(net, tmp_path / "net.onnx")
    settings = 'source = "stream:sensors:window"\nchannels = ["heat", "speed"]'
    sensors = SENSORS.format(window=1)
    bundle, _ = adopted(tmp_path, recipe({"readings": settings}, sensors, labels=2))
    readings = {"speed": 6.5, "load": 1.0, "heat": 7.0}
    assert decided(bundle, sensors=readings) == pytest.approx(softmax(np.array([7.0, 6.5])), abs=1e-6)
    cut, _ = adopted(
        tmp_path, recipe({"readings": settings}, sensors.replace("window = 1", "window = 1\nclip = 6.0"), labels=2)
    )
    assert decided(cut, sensors=readings) == pytest.approx([0.5, 0.5], abs=1e-6)
    with pytest.raises(UserError, match="`channels` names 'weight'; the stream 'sensors' has speed, load, heat"):
        adopted(tmp_path, recipe({"readings": settings.replace("heat", "weight")}, sensors, labels=2))


@pytest.mark.parametrize("axes", ["time first", "channels first", "flat"])
def test_a_window_of_readings(tmp_path: Path, axes: str) -> None:
    shapes = {"time first": (1, 4, 3), "channels first": (1, 3, 4), "flat": (1, 12)}
    nodes = [helper.make_node("Identity", ["readings"], ["logits"])]
    onnx.save(graph(nodes, {"readings": (F, shapes[axes])}, {"logits": (F, shapes[axes])}), tmp_path / "net.onnx")
    text = recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=4), labels=12)
    bundle, _ = adopted(tmp_path, text)
    values = np.zeros((4, 3))
    values[-1] = [1.0, 2.0, 3.0]  # one sample, in the window's last step
    expected = values.T if axes == "channels first" else values
    answer = decided(bundle, sensors={"speed": 1.0, "load": 2.0, "heat": 3.0})
    assert answer == pytest.approx(softmax(expected), abs=1e-6)


def test_a_picture_and_a_vector(tmp_path: Path) -> None:
    net = picture_net()
    net.graph.input.append(helper.make_tensor_value_info("readings", F, ("n", 3)))
    net.graph.node[-1].output[0] = "seen_logits"
    net.graph.node.append(helper.make_node("Add", ["seen_logits", "readings"], ["logits"]))
    onnx.save(net, tmp_path / "net.onnx")
    inputs = {"input": PIXELS.format(""), "readings": 'source = "stream:sensors:window"'}
    bundle, _ = adopted(tmp_path, recipe(inputs, CAMERA + SENSORS.format(window=1)))
    readings = {"speed": 0.5, "load": 1.5, "heat": -1.0}
    values = np.array([list(readings.values())], np.float32)
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input=unit(picture()), readings=values))
    assert decided(bundle, camera__front=picture(), sensors=readings) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stacked", [True, False])
def test_two_pictures(tmp_path: Path, stacked: bool) -> None:
    rear = CAMERA.replace("camera.front", "camera.rear")
    if stacked:
        net = picture_net(shape=(2, 3, 16, 24))
        net.graph.node[-1].output[0] = "each"
        net.graph.node.append(helper.make_node("ReduceMean", ["each"], ["logits"], axes=[0], keepdims=1))
        inputs = {"input": 'source = ["stream:camera.front:image", "stream:camera.rear:image"]\npixels = {}'}
    else:
        net = picture_net()
        net.graph.input.append(helper.make_tensor_value_info("behind", F, ("n", 3, 16, 24)))
        net.graph.node.insert(0, helper.make_node("Sub", ["input", "behind"], ["moved"]))
        net.graph.node[1].input[0] = "moved"
        inputs = {"input": PIXELS.format(""), "behind": PIXELS.format("").replace("front", "rear")}
    onnx.save(net, tmp_path / "net.onnx")
    bundle, _ = adopted(tmp_path, recipe(inputs, CAMERA + rear))
    front, behind = unit(picture(0)), unit(picture(1))
    given = {"input": np.concatenate([front, behind])} if stacked else {"input": front, "behind": behind}
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", **given))
    assert decided(bundle, camera__front=picture(0), camera__rear=picture(1)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mask_type", [I64, TensorProto.INT32, F, TensorProto.BOOL])
def test_a_text_encoder_with_ids_mask_and_type_ids(tmp_path: Path, mask_type: int) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["pieces"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["kinds"]),
        helper.make_node("Add", ["pieces", "kinds"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=F),
        helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
        helper.make_node("Mul", ["embedded", "columns"], ["known"]),
        helper.make_node("ReduceSum", ["known", "axes"], ["logits"], keepdims=0),
    ]
    constants = {
        "table": rng.normal(size=(400, 3)).astype(np.float32), "types": rng.normal(size=(2, 3)).astype(np.float32),
        "last": np.array([-1], np.int64), "axes": np.array([1], np.int64),
    }  # fmt: skip
    inputs = {
        "input_ids": (I64, ("n", "length")),
        "attention_mask": (mask_type, ("n", "length")),
        "token_type_ids": (I64, ("n", "length")),
    }
    onnx.save(graph(nodes, inputs, {"logits": (F, ("n", 3))}, constants), tmp_path / "net.onnx")
    plan = {"input_ids": 'source = "stream:text:ids"', "attention_mask": 'source = "stream:text:mask"'}
    text = recipe(plan | {"token_type_ids": "constant = 0"}, TEXT, more='tokenizer = "tokenizer.model"\n')
    bundle, _ = adopted(tmp_path, text)
    from edge_runtime.tokenizer import SentencePieceTokenizer

    ids = SentencePieceTokenizer(bundle.read("tokenizer.model")).encode("turn on the light")[:6]
    row = np.array([ids + [0] * (6 - len(ids))], np.int64)
    mask = np.array([[1] * len(ids) + [0] * (6 - len(ids))]).astype(helper.tensor_dtype_to_np_dtype(mask_type))
    given = {"input_ids": row, "attention_mask": mask, "token_type_ids": np.zeros_like(row)}
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", **given))
    assert decided(bundle, text="turn on the light") == pytest.approx(expected, abs=1e-5)


def test_an_lstm_from_its_first_state(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, steps: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made, (h, c) = self.lstm(steps / 100, (h, c))
            return self.head(made[:, -1]), h, c

    torch.manual_seed(0)
    states = (torch.zeros(1, 1, 5), torch.zeros(1, 1, 5))
    torch.onnx.export(
        Recurrent().eval(), (torch.rand(1, 4, 3), *states), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17,
        input_names=["steps", "h0", "c0"], output_names=["logits", "h1", "c1"],
    )  # fmt: skip
    inputs = {"steps": 'source = "stream:sensors:window"', "h0": "constant = 0", "c0": "constant = 0.0"}
    bundle, told = adopted(tmp_path, recipe(inputs, SENSORS.format(window=4)))
    assert "net: outputs that nothing reads are left out: h1, c1" in told
    steps = np.zeros((1, 4, 3), np.float32)
    steps[0, -1] = list(READINGS.values())
    zero = np.zeros((1, 1, 5), np.float32)
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", steps=steps, h0=zero, c0=zero))
    assert decided(bundle, sensors=READINGS) == pytest.approx(expected, abs=1e-5)


def test_names_with_colons_slashes_and_spaces(tmp_path: Path) -> None:
    net = picture_net("NHWC")
    for node in net.graph.node:
        node.input[:] = ["serving_default/input 1:0" if name == "input" else name for name in node.input]
        node.output[:] = ["StatefulPartitionedCall/out:0" if name == "logits" else name for name in node.output]
    net.graph.input[0].name, net.graph.output[0].name = "serving_default/input 1:0", "StatefulPartitionedCall/out:0"
    onnx.save(net, tmp_path / "net.onnx")
    settings = PIXELS.format('layout = "NHWC"')
    bundle, _ = adopted(
        tmp_path, recipe({"serving_default/input 1:0": settings}, CAMERA, "StatefulPartitionedCall/out:0")
    )
    given = {"serving_default/input 1:0": unit(picture()).transpose(0, 2, 3, 1)}
    expected = softmax(file_says(tmp_path / "net.onnx", "StatefulPartitionedCall/out:0", **given))
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)


def test_outputs_that_nothing_reads_go_with_what_leads_to_them_alone(tmp_path: Path) -> None:
    """A classifier's list of dictionaries, of another domain, beside the numbers that are wanted."""
    net = picture_net()
    net.graph.node.append(
        helper.make_node("ZipMap", ["logits"], ["table"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    )
    table = helper.make_sequence_type_proto(helper.make_map_type_proto(I64, helper.make_tensor_type_proto(F, None)))
    net.graph.output.append(helper.make_value_info("table", table))
    net.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(net, tmp_path / "net.onnx")
    bundle, told = adopted(tmp_path, recipe({"input": PIXELS.format("")}, CAMERA))
    assert told == ["net: outputs that nothing reads are left out: table"]
    expected = softmax(file_says(tmp_path / "net.onnx", "logits", input=unit(picture())))
    assert decided(bundle, camera__front=picture()) == pytest.approx(expected, abs=1e-5)


def test_doubles_and_64_bit_answers(tmp_path: Path) -> None:
    net = graph(
        [helper.make_node("MatMul", ["readings", "weights"], ["logits"])],
        {"readings": (TensorProto.DOUBLE, (1, 3))},
        {"logits": (TensorProto.DOUBLE, (1, 3))},
        {"weights": np.eye(3) / 100},
    )
    onnx.save(net, tmp_path / "net.onnx")
    bundle, _ = adopted(tmp_path, recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1)))
    assert decided(bundle, sensors=READINGS) == pytest.approx(
        softmax(np.array(list(READINGS.values())) / 100), abs=1e-5
    )


def test_a_branch_that_constants_decide_is_folded_away(tmp_path: Path) -> None:
    answer = helper.make_tensor_value_info("answer", F, None)
    branches = {
        name: helper.make_graph([helper.make_node(operator, ["readings"], ["answer"])], name, [], [answer])
        for name, operator in (("then_branch", "Identity"), ("else_branch", "Neg"))
    }
    net = graph(
        [helper.make_node("If", ["always"], ["logits"], **branches)],  # type: ignore[arg-type]
        {"readings": (F, (1, 3))}, {"logits": (F, (1, 3))}, {"always": np.array(True)},
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    text = recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1))
    small = {"speed": 1.0, "load": 2.0, "heat": 3.0}
    assert decided(adopted(tmp_path, text)[0], sensors=small) == pytest.approx(
        softmax(np.array([1.0, 2.0, 3.0])), abs=1e-6
    )


def _looping() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["so_far", "so_far"], ["doubled"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info(n, k, s)
            for n, k, s in (("i", I64, ()), ("go", TensorProto.BOOL, ()), ("so_far", F, (1, 3)))
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("doubled", F, (1, 3)),
        ],
    )
    return graph(
        [
            helper.make_node("ReduceSum", ["readings"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["often"], to=I64),
            helper.make_node("Loop", ["often", "", "readings"], ["logits"], name="repeat", body=body),  # type: ignore[arg-type]
        ],
        {"readings": (F, (1, 3))}, {"logits": (F, (1, 3))},
    )  # fmt: skip


def _of_any_length() -> ModelProto:
    return graph(
        [helper.make_node("NonZero", ["readings"], ["places"]), helper.make_node("Cast", ["places"], ["logits"], to=F)],
        {"readings": (F, (1, 3))}, {"logits": (F, ("k", "m"))},
    )  # fmt: skip


def _too_new() -> ModelProto:
    node = helper.make_node("Cast", ["readings"], ["logits"], name="rounding", to=F, round_mode="up")
    return graph([node], {"readings": (F, (1, 3))}, {"logits": (F, (1, 3))}, opset=24)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (_looping(), r"node 'repeat' is control flow \(Loop\) that depends on the input; export the model by tracing"),
        (_of_any_length(), "the shape of its output 'logits' depends on what comes in; export it with fixed shapes"),
        (
            _too_new(),
            "node 'rounding': Cast has the setting 'round_mode', which came after opset 20, and the targets read",
        ),
        (picture_net(), r"the graph's inputs are input|`inputs` names 'readings'"),
    ],
    ids=["loop", "length", "opset", "inputs"],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, net: ModelProto, message: str) -> None:
    onnx.save(net, tmp_path / "net.onnx")
    with pytest.raises(UserError, match=message) as refused:
        adopted(tmp_path, recipe({"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1)))
    assert "\n" not in str(refused.value)


def members(kind: str, operator: str) -> ModelProto:
    """Two linear members on three readings, their shares of two labels, averaged in one way or another."""
    rng = np.random.default_rng(0)
    nodes = []
    for number in "ab":
        nodes.append(helper.make_node("MatMul", ["readings", f"weights_{number}"], [f"logits_{number}"]))
        nodes.append(helper.make_node(kind, [f"logits_{number}"], [f"share_{number}"], name=f"share_{number}"))
    both = ["share_a", "share_b"]
    constants = {f"weights_{number}": rng.normal(size=(3, 2)).astype(np.float32) / 50 for number in "ab"}
    if operator == "Mean":
        nodes.append(helper.make_node("Mean", both, ["logits"], name="mean"))
    elif operator == "half a sum":
        nodes.append(helper.make_node("Add", both, ["sum"]))
        nodes.append(helper.make_node("Mul", ["sum", "half"], ["logits"]))
        constants["half"] = np.array(0.5, np.float32)
    elif operator == "ReduceMean":
        nodes.append(helper.make_node("Unsqueeze", ["share_a", "front"], ["row_a"]))
        nodes.append(helper.make_node("Unsqueeze", ["share_b", "front"], ["row_b"]))
        nodes.append(helper.make_node("Concat", ["row_a", "row_b"], ["rows"], axis=0))
        nodes.append(helper.make_node("ReduceMean", ["rows"], ["logits"], axes=[0], keepdims=0))
        constants["front"] = np.array([0], np.int64)
    else:  # one that is told from the other: no mean
        nodes.append(helper.make_node("Mul", both, ["logits"]))
    return graph(nodes, {"readings": (F, (1, 3))}, {"logits": (F, (1, 2))}, constants)


@pytest.mark.parametrize("kind", ["Sigmoid", "Softmax"])
@pytest.mark.parametrize("operator", ["Mean", "half a sum", "ReduceMean", "Mul"])
def test_shares_that_are_averaged_are_warned_of(tmp_path: Path, kind: str, operator: str) -> None:
    onnx.save(members(kind, operator), tmp_path / "net.onnx")
    more = f'head = "{"sigmoid" if kind == "Sigmoid" else "softmax"}"\nprobabilities = true\n'
    text = recipe(
        {"readings": 'source = "stream:sensors:window"'}, SENSORS.format(window=1), labels=2, more=more
    ).replace('"label_0"\n[onnx]', f'"{"none" if kind == "Sigmoid" else "label_0"}"\n[onnx]')
    bundle, told = adopted(tmp_path, text)
    warned = [line for line in told if "warning: its output is the" in line]
    assert len(warned) == (operator != "Mul")
    assert all(f"of what {kind} makes: FP16 and INT8 round each to 0 or 1" in line for line in warned)
    expected = file_says(
        tmp_path / "net.onnx", "logits", readings=np.array([list(READINGS.values())], np.float32)
    ).reshape(-1)
    if operator != "Mul":
        np.testing.assert_allclose(decided(bundle, sensors=READINGS), expected, atol=1e-4)
