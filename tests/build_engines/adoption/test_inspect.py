"""What `inspect` says of a file, and that the recipe which it proposes is one that takes the file in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from build_engines.adoption.adopt import adopt
from build_engines.adoption.inspect import inspect_model, propose
from build_engines.recipe import OnnxRecipe, load_recipe
from edge_runtime.errors import UserError
from edge_runtime.streams import kind
from tests.build_engines.adoption.test_ordinary_models import I64, F, graph, members, picture_net
from tests.build_engines.calling import call
from tests.tiny import tokenizer_model


def _linear(shape: tuple[object, ...], end: str = "", answers: int = 3) -> ModelProto:
    weights = np.random.default_rng(0).normal(size=(5, answers)).astype(np.float32) / 10
    nodes = [helper.make_node("MatMul", ["readings", "weights"], ["sum" if end else "answer"])]
    if end:
        nodes.append(helper.make_node(end, ["sum"], ["answer"]))
    return graph(nodes, {"readings": (F, shape)}, {"answer": (F, (*shape[:-1], answers))}, {"weights": weights})


def _text() -> ModelProto:
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["numbers"]),
        helper.make_node("Gather", ["table", "numbers"], ["pieces"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=F),
        helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
        helper.make_node("Mul", ["pieces", "columns"], ["known"]),
        helper.make_node("ReduceSum", ["known", "axes"], ["logits"], keepdims=0),
    ]
    constants = {
        "table": np.ones((400, 3), np.float32),
        "last": np.array([-1], np.int64),
        "axes": np.array([1], np.int64),
    }
    names = ("input_ids", "attention_mask", "token_type_ids")
    return graph(nodes, dict.fromkeys(names, (I64, ("n", "length"))), {"logits": (F, ("n", 3))}, constants)


def _recurrent() -> ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["steps"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["turned", "w", "r", "", "", "first", "second"], ["", "last"], hidden_size=3),
        helper.make_node("Squeeze", ["last", "axis"], ["logits"]),
    ]
    constants = {
        "w": rng.normal(size=(1, 12, 2)).astype(np.float32),
        "r": rng.normal(size=(1, 12, 3)).astype(np.float32),
        "axis": np.array([0], np.int64),
    }
    states = dict.fromkeys(("first", "second"), (F, (1, 1, 3)))
    return graph(nodes, {"steps": (F, (1, 4, 2))} | states, {"logits": (F, (1, 3))}, constants)


CASES = {
    "picture": (picture_net(), {"camera.front": "camera"}, "softmax", "a picture, NCHW, three planes"),
    "grey": (picture_net("NHWC", 1), {"camera.front": "camera"}, "softmax", "a picture, NHWC, grey"),
    "bytes": (picture_net(kind=TensorProto.UINT8), {"camera.front": "camera"}, "softmax", "a picture, NCHW"),
    "readings": (_linear(("n", 5)), {"sensors": "sensors"}, "softmax", "5 readings"),
    "softmax": (_linear((1, 5), "Softmax"), {"sensors": "sensors"}, "softmax", "ends in Softmax"),
    "sigmoid": (_linear((1, 5), "Sigmoid"), {"sensors": "sensors"}, "sigmoid", "ends in Sigmoid"),
    "one answer": (_linear((1, 5), "Sigmoid", answers=1), {"sensors": "sensors"}, "sigmoid", "1 values"),
    "text": (_text(), {"text": "text"}, "softmax", "a text's mask"),
    "recurrent": (_recurrent(), {"sensors.steps": "sensors"}, "softmax", "a recurrent network's first state"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_proposed_recipe_takes_the_file_in(tmp_path: Path, case: str) -> None:
    net, streams, head, words = CASES[case]
    onnx.save(net, tmp_path / "net.onnx")
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    inspection = inspect_model(tmp_path / "net.onnx")
    assert inspection.problem is None
    assert inspection.head == head
    assert any(words in line for line in inspection.summary), inspection.summary
    (tmp_path / "net.toml").write_text(propose(inspection, ()))
    recipe, digest = load_recipe(tmp_path / "net.toml")
    assert isinstance(recipe, OnnxRecipe)
    assert {name: kind(spec) for name, spec in recipe.streams.items()} == streams
    bundle = adopt(recipe, digest, tmp_path / "model")
    assert len(bundle.manifest.head.labels) == inspection.values  # type: ignore[union-attr]


def test_sizes_that_the_file_leaves_open_are_given(tmp_path: Path) -> None:
    onnx.save(picture_net(shape=("n", 3, "h", "w")), tmp_path / "net.onnx")
    text = propose(inspect_model(tmp_path / "net.onnx", size=(64, 48)), ["a", "b", "c"])
    assert "width = 64\nheight = 48" in text
    assert 'labels = ["a", "b", "c"]\n' in text
    with pytest.raises(UserError, match="holds 3 values, there are 2 labels"):
        propose(inspect_model(tmp_path / "net.onnx"), ["a", "b"])


def test_shares_that_nothing_at_the_end_explains_are_proposed_as_such(tmp_path: Path) -> None:
    net = graph(
        [
            helper.make_node("Abs", ["readings"], ["sizes"]),
            helper.make_node("ReduceSum", ["sizes", "axes"], ["total"], keepdims=1),
            helper.make_node("Div", ["sizes", "total"], ["answer"]),
        ],
        {"readings": (F, ("n", 3))}, {"answer": (F, ("n", 3))}, {"axes": np.array([1], np.int64)},
    )  # fmt: skip
    onnx.save(net, tmp_path / "net.onnx")
    assert "\nprobabilities = true" in propose(inspect_model(tmp_path / "net.onnx"), ())
    onnx.save(_linear(("n", 5), "Softmax"), tmp_path / "net.onnx")
    assert "probabilities" not in propose(inspect_model(tmp_path / "net.onnx"), ())


def test_what_cannot_be_taken_in_is_described_and_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = graph(
        [helper.make_node("Reshape", ["input", "shape"], ["boxes"])],
        {"input": (F, (1, 3, 16, 24))}, {"boxes": (F, (1, 12, 96))}, {"shape": np.array([1, 12, 96], np.int64)},
    )  # fmt: skip
    onnx.save(boxes, tmp_path / "boxes.onnx")
    assert call(monkeypatch, "inspect", tmp_path / "boxes.onnx") == 2
    told = capsys.readouterr()
    assert "opset 17" in told.out
    assert "its output 'boxes' is [1, 12, 96], not a value per label" in told.err
    (tmp_path / "text.onnx").write_bytes(b"not a graph")
    assert call(monkeypatch, "inspect", tmp_path / "text.onnx") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_writes_a_recipe_that_can_be_run_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(picture_net(), tmp_path / "models" / "net.onnx")
    (tmp_path / "labels.txt").write_text("ball\nbox\n\ncone\n")
    arguments = ["inspect", tmp_path / "models" / "net.onnx", "--labels", tmp_path / "labels.txt"]
    assert call(monkeypatch, *arguments, "--write", tmp_path / "own.toml") == 0
    recipe, _ = load_recipe(tmp_path / "own.toml")
    assert isinstance(recipe, OnnxRecipe)
    assert recipe.labels == ("ball", "box", "cone")
    assert Path(recipe.onnx.stages[0].file) == tmp_path / "models" / "net.onnx"
    assert call(monkeypatch, *arguments, "--write", tmp_path / "own.toml") == 2
    assert "own.toml exists; choose another name" in capsys.readouterr().err
    assert call(monkeypatch, "inspect", tmp_path / "models" / "net.onnx", "--size", "9by9") == 2


def test_a_graph_that_crashes_what_opens_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash is made by hand: those that are known are of one version of one library."""
    from build_engines.foreign import probe

    branch = helper.make_graph(
        [helper.make_node("Identity", ["readings"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", F, None)],
    )
    net = graph(
        [helper.make_node("If", ["always"], ["answer"], then_branch=branch, else_branch=branch)],  # type: ignore[arg-type]
        {"readings": (F, (1, 3))}, {"answer": (F, (1, 3))}, {"always": np.array(True)},
    )  # fmt: skip
    probe.probe(net, "net")
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(probe.sys, "executable", str(crash))
    with pytest.raises(UserError, match=r"net: ONNX Runtime crashes on its branches \(signal 11\)"):
        probe.probe(net, "net")
    net.graph.node[0].CopyFrom(helper.make_node("Identity", ["readings"], ["answer"]))
    probe.probe(net, "net")  # nothing inside: not tried


def test_constants_count_as_weights(tmp_path: Path) -> None:
    net = _linear(("n", 5))
    values = numpy_helper.to_array(net.graph.initializer[0])
    del net.graph.initializer[:]
    net.graph.node.insert(0, helper.make_node("Constant", [], ["weights"], value=numpy_helper.from_array(values)))
    onnx.save(net, tmp_path / "net.onnx")
    assert ", 15 weights" in inspect_model(tmp_path / "net.onnx").summary[0]


def test_shares_that_are_averaged_are_warned_of(tmp_path: Path) -> None:
    for operator, warned in (("Mean", True), ("Mul", False)):
        onnx.save(members("Softmax", operator), tmp_path / "net.onnx")
        said = "\n".join(inspect_model(tmp_path / "net.onnx").summary)
        assert ("warning: logits is the Mean (node 'mean') of what Softmax makes" in said) == warned
