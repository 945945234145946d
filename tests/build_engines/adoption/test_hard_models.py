"""Graphs that need more than shapes: branches, newer operators, several pictures, answers that number a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.adoption.inspect import inspect_model, propose
from edge_runtime.errors import UserError
from tests.build_engines.adoption.test_ordinary_models import (
    CAMERA,
    I64,
    READINGS,
    SENSORS,
    F,
    adopted,
    decided,
    file_says,
    graph,
    picture,
    picture_net,
    recipe,
    softmax,
)

BOOL = TensorProto.BOOL
WINDOW = 'source = "stream:sensors:window"'
VECTOR = {"readings": (F, (1, 3))}
LOGITS = {"logits": (F, (1, 3))}
VALUES = np.array([list(READINGS.values())], np.float32)


def info(name: str, kind: int = F, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def rated(inner: bool = True) -> ModelProto:
    """As a sound model with one branch for each rate has it: the rate is an input, tensors of both branches have the
    same names, and one holds a branch of its own."""

    def branch(name: str, factor: float) -> onnx.GraphProto:
        scale = numpy_helper.from_array(np.array(factor, np.float32), "scale")
        nodes = [helper.make_node("Mul", ["share", "scale"], ["scaled"], name="scaling")]
        if inner:
            below = [
                helper.make_graph([helper.make_node(operator, ["scaled"], ["turned"])], operator, [], [info("turned")])
                for operator in ("Neg", "Identity")
            ]
            nodes.append(helper.make_node("If", ["fast"], ["out"], then_branch=below[0], else_branch=below[1]))
        else:
            nodes.append(helper.make_node("Identity", ["scaled"], ["out"]))
        return helper.make_graph(nodes, name, [], [info("out")], [scale])

    nodes = [
        helper.make_node("Identity", ["sr"], ["rate"]),
        helper.make_node("Equal", ["rate", "high"], ["fast"]),
        helper.make_node("Mul", ["readings", "small"], ["share"]),
        helper.make_node("If", ["fast"], ["logits"], then_branch=branch("a", 2.0), else_branch=branch("b", -3.0)),
    ]
    constants = {"high": np.array(16000), "small": np.array(1e-3, np.float32)}
    return graph(nodes, {**VECTOR, "sr": (I64, ())}, LOGITS, constants)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_constant_input_decides_branches_within_branches(tmp_path: Path, rate: int) -> None:
    onnx.save(rated(), tmp_path / "net.onnx")
    inputs = {"readings": WINDOW, "sr": f"constant = {rate}"}
    bundle, _ = adopted(tmp_path, recipe(inputs, SENSORS.format(window=1)))
    assert all(node.op_type != "If" for node in onnx.load(bundle.path / "stages/net.fp32.onnx").graph.node)
    said = file_says(tmp_path / "net.onnx", "logits", readings=VALUES, sr=np.array(rate))
    assert decided(bundle, sensors=READINGS) == pytest.approx(softmax(said), abs=1e-5)


def test_operators_after_opset_20_are_written_out_where_onnx_says_how(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RMSNormalization", ["readings", "gain"], ["normed"]),
        helper.make_node("Reshape", ["normed", "rows"], ["sequence"]),
        helper.make_node("Attention", ["sequence", "sequence", "sequence"], ["mixed"], q_num_heads=1, kv_num_heads=1),
        helper.make_node("Reshape", ["mixed", "row"], ["logits"]),
    ]
    constants = {"gain": np.array([1, 2, 3], np.float32), "rows": np.array([1, 3, 1]), "row": np.array([1, 3])}
    onnx.save(graph(nodes, VECTOR, LOGITS, constants, opset=23), tmp_path / "net.onnx")
    bundle, _ = adopted(tmp_path, recipe({"readings": WINDOW}, SENSORS.format(window=1)))
    said = file_says(tmp_path / "net.onnx", "logits", readings=VALUES)
    assert decided(bundle, sensors=READINGS) == pytest.approx(softmax(said), abs=1e-4)


def unfit(what: str) -> ModelProto:
    node: onnx.NodeProto
    constants: dict[str, Any] = {}
    if what == "random":
        node = helper.make_node("RandomNormalLike", ["readings"], ["logits"], name="luck")
    elif what == "dropout":
        constants = {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
        node = helper.make_node("Dropout", ["readings", "ratio", "on"], ["logits"], name="drop")
    elif what == "norm":
        constants = {name: np.ones(3, np.float32) for name in ("scale", "shift", "mean", "var")}
        node = helper.make_node(
            "BatchNormalization", ["readings", *constants], ["logits", "m", "v"], name="bn", training_mode=1
        )
    else:
        node = helper.make_node("DynamicQuantizeLinear", ["readings"], ["logits", "s", "z"], name="q")
    return graph([node], VECTOR, LOGITS, constants)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("random", r"node 'luck' \(RandomNormalLike\) draws random numbers"),
        ("dropout", r"node 'drop' \(Dropout\) is as in training, .* export model.eval"),
        ("norm", r"node 'bn' \(BatchNormalization\) is as in training"),
        (
            "quantised",
            r"node 'q' \(DynamicQuantizeLinear\) is of a model that is quantised already; give the float one",
        ),
    ],
)
def test_what_would_decide_by_chance_or_is_quantised_is_refused_by_its_node(
    tmp_path: Path, what: str, message: str
) -> None:
    onnx.save(unfit(what), tmp_path / "net.onnx")
    with pytest.raises(UserError, match=message):
        adopted(tmp_path, recipe({"readings": WINDOW}, SENSORS.format(window=1)))


def test_numbers_that_a_cpu_cannot_calculate_with_are_refused(tmp_path: Path) -> None:
    net = graph([helper.make_node("Cast", ["weights"], ["logits"], to=F)], VECTOR, LOGITS)
    net.graph.initializer.append(helper.make_tensor("weights", TensorProto.BFLOAT16, [1, 3], [1.0, 2.0, 3.0]))
    onnx.save(net, tmp_path / "net.onnx")
    with pytest.raises(UserError, match="its constant 'weights' is bfloat16; export it in float32 or float16"):
        adopted(tmp_path, recipe({"readings": WINDOW}, SENSORS.format(window=1)))


def test_the_number_of_the_best_label_is_taken_off(tmp_path: Path) -> None:
    net = picture_net()
    net.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0))
    net.graph.node.append(helper.make_node("Cast", ["best"], ["label"], to=TensorProto.INT32))
    del net.graph.output[:]
    net.graph.output.append(info("label", TensorProto.INT32, ("n",)))
    onnx.save(net, tmp_path / "net.onnx")
    assert inspect_model(tmp_path / "net.onnx", size=(24, 16)).values == 3
    settings = 'source = "stream:camera.front:image"\npixels = { normalisation = "unit" }'
    bundle, told = adopted(tmp_path, recipe({"input": settings}, CAMERA, "label"))
    shares = decided(bundle, camera__front=picture())
    unit = picture()[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert np.argmax(shares) == file_says(tmp_path / "net.onnx", "label", input=unit)[0]
    assert len(told) == 1 and "ArgMax" in told[0]


@pytest.mark.parametrize("axes", ["planes", "clip"])
def test_several_pictures_in_one_tensor(tmp_path: Path, axes: str) -> None:
    """Planes one after the other, as networks that compare pictures have them, or an axis of pictures."""
    shape = (1, 6, 16, 24) if axes == "planes" else (1, 2, 3, 16, 24)
    nodes = [
        helper.make_node("ReduceMean", ["pair"], ["means"], axes=[len(shape) - 2, len(shape) - 1], keepdims=0),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    weights = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    onnx.save(graph(nodes, {"pair": (F, shape)}, LOGITS, {"weights": weights}), tmp_path / "net.onnx")
    settings = 'source = ["stream:camera.front:image", "stream:camera.rear:image"]\npixels = { normalisation = "unit" }'
    bundle, _ = adopted(tmp_path, recipe({"pair": settings}, CAMERA + CAMERA.replace("front", "rear")))
    front, rear = picture(1), picture(2)
    pair = np.stack([front, rear])[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32).reshape(shape) / 255
    said = softmax(file_says(tmp_path / "net.onnx", "logits", pair=pair))
    assert decided(bundle, camera__front=front, camera__rear=rear) == pytest.approx(said, abs=1e-5)


def mean_of(name: str, shape: Any, kind: int = F) -> ModelProto:
    """A graph that takes one such input."""
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=F),
        helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "weights"], ["logits"]),
    ]
    return graph(nodes, {name: (kind, shape)}, LOGITS, {"weights": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("name", "shape", "kind", "why"),
    [
        ("clip", (1, 3, 8, 32, 32), F, "several pictures; a stream gives the newest"),
        ("image", (1, 4, 32, 32), F, "neither a picture of 1 or 3 planes nor readings"),
        ("wave", (1, 16000), F, "as raw sound is; a stream of sound gives log-mel frames"),
        ("audio", ("n", "t"), F, "as raw sound is"),
        ("words", (1,), TensorProto.STRING, "words; a stream of text gives pieces"),
    ],
)
def test_inspect_says_what_no_stream_gives(tmp_path: Path, name: str, shape: Any, kind: int, why: str) -> None:
    onnx.save(mean_of(name, shape, kind), tmp_path / "net.onnx")
    problem = inspect_model(tmp_path / "net.onnx").problem
    assert problem is not None and f"input {name!r} is" in problem and why in problem and "\n" not in problem


def test_a_recipe_with_more_readings_than_a_message_holds_is_refused(tmp_path: Path) -> None:
    onnx.save(mean_of("readings", (1, 3001)), tmp_path / "net.onnx")
    rows = ", ".join(f'{{ name = "s{i}", unit = "", minimum = -1.0, maximum = 1.0 }}' for i in range(3001))
    stream = f'[streams.sensors]\nkind = "sensors"\nrate_hz = 10.0\nmax_age_ms = 1000.0\nchannels = [{rows}]\n'
    with pytest.raises(UserError, match="3001 channels; a message holds at most 3000 readings"):
        adopted(tmp_path, recipe({"readings": WINDOW}, stream))


def test_inspect_proposes_places_and_rates_and_leaves_out_what_the_output_does_not_need(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Gather", ["table", "position_ids"], ["places"]),
        helper.make_node("Add", ["words", "places"], ["both"]),
        helper.make_node("ReduceMean", ["both"], ["logits"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["past_key_values.0.key"], ["cache"], keepdims=0),
    ]
    ids = dict.fromkeys(("input_ids", "position_ids"), (I64, (1, 8)))
    table = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    net = graph(nodes, {**ids, "past_key_values.0.key": (F, (1, 4, "past", 8))}, {**LOGITS, "cache": (F, ())},
                {"table": table})  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    inspection = inspect_model(tmp_path / "net.onnx")
    assert inspection.problem is None and [one.name for one in inspection.inputs] == ["input_ids", "position_ids"]
    assert "constant = [0, 1, 2, 3, 4, 5, 6, 7]    # look" in propose(inspection, [])
    onnx.save(rated(inner=False), tmp_path / "rated.onnx")
    assert "constant = 16000" in propose(inspect_model(tmp_path / "rated.onnx"), [])
