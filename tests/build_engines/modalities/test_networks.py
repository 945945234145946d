"""The residual vision encoder: its graph is what torch computes, becomes INT8, and compiles; plain ones stay.

And what the sensors' encoder is taught about sensors that drift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from build_engines.compile import compile_graph, find_compiler
from build_engines.modalities.sensors.network import SensorsEncoder
from build_engines.modalities.sensors.recipe import SensorsRecipe
from build_engines.modalities.vision.network import VisionEncoder
from build_engines.modalities.vision.recipe import VisionRecipe
from build_engines.model.export import EncoderStage, StageExport, to_onnx
from build_engines.quantisation.lint import lint
from build_engines.quantisation.quantise import prepare, quantise, sites
from tests.build_engines import small_graphs as small

HEIGHT, WIDTH, FEATURES = 18, 27, 16
RESIDUAL = VisionRecipe(
    ("camera.front",), kind="residual", widths=(16, 16, 24), blocks=(1, 2), aux={"kind": 3}, aux_in_features=True
)


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    """With batch norms that have seen pictures, as after training."""
    torch.manual_seed(0)
    made = VisionEncoder(RESIDUAL, HEIGHT, WIDTH, FEATURES).train()
    for feeds in _pictures(6, seed=9):
        made(torch.from_numpy(np.concatenate([feeds["image"], feeds["image"][:, ::-1]])))
    return made.eval()


@pytest.fixture(scope="module")
def graph(encoder: VisionEncoder) -> ModelProto:
    image = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    return to_onnx(StageExport("vision", EncoderStage(encoder), {"image": image}, ("features",)))


@pytest.fixture(scope="module")
def integer(graph: ModelProto) -> ModelProto:
    before = prepare(graph)
    found = sites(before)
    names = sorted({name for site in found for name in site.activations})
    return quantise(before, small.ranges(before, _pictures(8), names), found)


def _pictures(count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)} for _ in range(count)]


def test_the_graph_computes_what_torch_computes(encoder: VisionEncoder, graph: ModelProto) -> None:
    assert lint(graph) == []
    operators = [node.op_type for node in graph.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Add") == 3
    assert operators.count("Conv") == 1 + 3 * 2 + 2, "stem, two in each block, a projection where the size changes"
    for feeds in _pictures(4, seed=3):
        with torch.no_grad():
            expected = encoder(torch.from_numpy(feeds["image"]))[0].numpy()
        (given,) = small.run(graph, feeds)
        assert np.abs(given - expected).max() < 1e-5


def test_convolutions_and_skips_become_int8_block_by_block(graph: ModelProto, integer: ModelProto) -> None:
    found = sites(prepare(graph))
    assert {site.block for site in found if site.op in ("Conv", "Add")} == {f"layers.{i}" for i in range(4)}
    assert sum(site.op == "Add" for site in found) == 3
    assert lint(integer) == []
    for feeds in _pictures(4, seed=5):
        (exact,), (coarse,) = small.run(graph, feeds), small.run(integer, feeds)
        assert 0 < np.linalg.norm(exact - coarse) < 0.1 * np.linalg.norm(exact)


@pytest.mark.skipif(find_compiler() is None, reason="no compiler for engines on this platform")
def test_the_integer_graph_compiles(integer: ModelProto) -> None:
    compiler = find_compiler()
    assert compiler is not None
    model = integer.SerializeToString()
    assert compile_graph(compiler, model, "vision.int8", ("8.6",), 64).plan


def test_a_skip_keeps_what_the_convolutions_drop() -> None:
    torch.manual_seed(1)
    made = VisionEncoder(RESIDUAL, HEIGHT, WIDTH, FEATURES).eval()
    block = made.layers[3]
    with torch.no_grad():
        block.second[1].weight.zero_()
        given = torch.rand(1, 24, 3, 4)
        assert torch.equal(block(given), given)


def test_the_grid_and_its_head_fit_the_last_map() -> None:
    recipe = VisionRecipe(("camera.front",), kind="residual", widths=(4, 8, 8), pool="grid")
    made = VisionEncoder(recipe, HEIGHT, WIDTH, FEATURES).eval()
    image = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    assert made(image)[0].shape == (2, FEATURES)
    assert len(made.layers) == 3, "one block each where the recipe names no number"


def test_plain_encoders_keep_their_modules_and_their_first_weights() -> None:
    torch.manual_seed(0)
    made = VisionEncoder(VisionRecipe(("camera.front",), widths=(4, 8)), 16, 16, FEATURES)
    kinds = [type(module) for layer in made.layers for module in layer]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    torch.manual_seed(0)
    same = [nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 8, 3, 2, 1, bias=False)]
    for layer, convolution in zip(made.layers, same, strict=True):
        assert torch.equal(layer[0].weight, convolution.weight)


def _seen_by_layers(recipe: SensorsRecipe, rows: int, training: bool) -> NDArray[np.float32]:
    """Values [rows, T, C] that reach the layers of an encoder of `recipe` when every sensor reads its mean."""
    encoder = SensorsEncoder(recipe, 4, 5, FEATURES).train(training)
    seen: list[torch.Tensor] = []
    encoder.layers.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(torch.zeros(rows, 4, 5), torch.ones(rows, 4, 5))
    return np.asarray(seen[0].transpose(1, 2)[..., :5].numpy())


def test_drift_is_one_constant_a_channel_in_a_share_of_the_windows() -> None:
    torch.manual_seed(2)
    recipe = SensorsRecipe("sensors", kind="conv", width=8, bias=0.3)
    seen = _seen_by_layers(recipe, 2000, training=True)
    assert np.array_equal(seen, np.broadcast_to(seen[:, :1], seen.shape)), "constant over the window"
    drifted = seen[:, 0].any(1)
    assert 0.25 < drifted.mean() < 0.35
    assert np.abs(seen[drifted, 0].std(0) - 1).max() < 0.15
    assert np.abs(np.corrcoef(seen[drifted, 0].T) - np.eye(5)).max() < 0.2, "each channel its own"
    assert not _seen_by_layers(recipe, 50, training=False).any(), "the device adds nothing"


def test_without_drift_nothing_more_is_drawn() -> None:
    """Recipes that do not ask for it keep their random stream, and so their weights."""
    recipe = SensorsRecipe("sensors", kind="conv", width=8, noise=0.1, channel_dropout=0.2)
    encoder = SensorsEncoder(recipe, 4, 5, FEATURES).train()
    encoder.head.dropout.p = 0.0
    torch.manual_seed(3)
    encoder(torch.zeros(6, 4, 5), torch.ones(6, 4, 5))
    after = torch.rand(4)
    torch.manual_seed(3)
    torch.randn(6, 4, 5)
    torch.rand(6, 1, 5)
    assert torch.equal(torch.rand(4), after)
