"""Taking in graphs from elsewhere: shapes fixed, conversions inside, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from build_engines.adoption.adopt import adopt
from build_engines.recipe import OnnxRecipe, load_recipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.pipeline import Pipeline

RECIPE = """
name = "shapes"
version = "1.0.0"
layout = "images"
labels = ["ball", "box", "cone"]
trigger = "camera.front"

[streams."camera.front"]
kind = "camera"
width = 24
height = 16
rate_hz = 10.0
max_age_ms = 500.0
required = true

[decision]
safe_label = "ball"

[onnx]
output = "stage:classifier:logits"

[[onnx.stages]]
name = "classifier"
file = "net.onnx"

[onnx.stages.inputs.input]
source = "stream:camera.front:image"
pixels = { mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }
"""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Net(nn.Module):
    """What a user brings: convolutions with batch norms, global pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        return found


def write_net(path: Path, opset: int = 17, softmax: bool = False, seed: int = 0) -> nn.Module:
    """A net with batch statistics of its own, exported with a batch that may vary."""
    torch.manual_seed(seed)
    net: nn.Module = Net()
    net.train()
    for _ in range(3):
        net(torch.randn(8, 3, 16, 24))
    net = nn.Sequential(net, nn.Softmax(1)) if softmax else net
    torch.onnx.export(
        net.eval(), (torch.zeros(2, 3, 16, 24),), str(path), input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, opset_version=opset, dynamo=False,
    )  # fmt: skip
    return net


def _adopted(folder: Path, recipe: str = RECIPE) -> Bundle:
    (folder / "shapes.toml").write_text(recipe)
    read, digest = load_recipe(folder / "shapes.toml")
    assert isinstance(read, OnnxRecipe)
    return adopt(read, digest, folder / "model")


def _picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, 16, 24, 3)).astype(np.uint8)


def _as_trained(picture: NDArray[np.uint8]) -> torch.Tensor:
    """What the net saw in training: RGB, 0 to 1, standardised, channels first."""
    values = (picture[..., ::-1] / 255.0 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32))


def _logits(bundle: Bundle, picture: NDArray[np.uint8]) -> NDArray[Any]:
    from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine

    (stage,) = bundle.manifest.stages
    specs = [item.spec for item in stage.inputs]
    with OnnxRuntimeEngine("classifier", "fp32", bundle.read(stage.files["fp32"]), specs, stage.outputs) as engine:
        return engine.run({specs[0].name: picture})["logits"]


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_camera_net_takes_bytes_and_gives_the_same_answer(tmp_path: Path, opset: int) -> None:
    net = write_net(tmp_path / "net.onnx", opset)
    bundle = _adopted(tmp_path)
    (stage,) = bundle.manifest.stages
    (image,) = stage.inputs
    assert (image.dtype, image.shape, image.layout) == ("uint8", (1, 16, 24, 3), "NHWC BGR 0..255")
    graph = onnx.load_from_string(bundle.read("stages/classifier.fp32.onnx"))
    assert (graph.opset_import[0].version, graph.ir_version) == (20, 10)
    assert not [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    for seed in range(3):
        with torch.no_grad():
            expected = net(_as_trained(_picture(seed))).numpy()
        assert _logits(bundle, _picture(seed)) == pytest.approx(expected, abs=1e-5)
    Pipeline(bundle).close()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('labels = ["ball", "box", "cone"]', 'labels = ["ball", "box"]', "has shape [1, 3], but there are 2 labels"),
        ("inputs.input]", "inputs.picture]", "`inputs` names 'picture'; the graph's inputs are input"),
        ("width = 24", "width = 32", "set width, height, pixels.layout"),
        ("stage:classifier:logits", "stage:classifier:answer", "there are stage:classifier:logits"),
        ('file = "net.onnx"', 'file = "missing.onnx"', "cannot be read"),
        ('file = "net.onnx"', 'file = "shapes.toml"', "is not a valid ONNX file"),
        ("pixels = {", "pixels = { normalisation = 'unit', ", "keep one of them"),
        ("pixels = {", "constant = 0\npixels = {", "either `source` or `constant`"),
        ("\npixels = {", "  # {", "say how it was trained"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    torch.onnx.export(
        net, (torch.zeros(1, 3, 16, 24),), str(tmp_path / "net.onnx"), input_names=["input"], output_names=["logits"],
        opset_version=20, dynamo=False,
    )  # fmt: skip
    assert old in RECIPE
    with pytest.raises(UserError) as refused:
        _adopted(tmp_path, RECIPE.replace(old, new))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_recipe_has_one_kind_of_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        _adopted(tmp_path, RECIPE + "\n[model]\nfeatures = 4\n")


def test_operators_of_other_domains_are_named_inside_branches_too(tmp_path: Path) -> None:
    write_net(tmp_path / "net.onnx")
    net = onnx.load(str(tmp_path / "net.onnx"))
    shape = onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", [net.graph.node[-1].output[0]], ["kept"], domain="com.microsoft")],
        "branch", [], [shape],
    )  # fmt: skip
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    net.graph.node.append(
        onnx.helper.make_node("If", ["always"], ["bent"], then_branch=branch, else_branch=branch)  # type: ignore[arg-type]
    )
    net.graph.output[0].name = "bent"
    net.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(net, str(tmp_path / "net.onnx"))
    with pytest.raises(UserError, match=r"operators beyond ai.onnx: com.microsoft.Gelu; export the graph without"):
        _adopted(tmp_path, RECIPE.replace("classifier:logits", "classifier:bent"))
