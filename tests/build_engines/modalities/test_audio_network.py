"""The encoder of sound: its graph is what torch computes; what was not heard, and where in time, count for nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from build_engines.modalities.audio.network import AudioEncoder
from build_engines.modalities.audio.recipe import AudioRecipe
from build_engines.model.export import EncoderStage, StageExport, to_onnx
from build_engines.quantisation.lint import lint
from tests.build_engines import small_graphs as small

STEPS, BANDS, FEATURES = 24, 16, 8
RECIPE = AudioRecipe("mic", widths=(4, 8), dropout=0.0)


@pytest.fixture
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    made = AudioEncoder(RECIPE, FEATURES).train()
    made(torch.randn(8, STEPS, BANDS), torch.ones(8, STEPS, 1))
    return made.eval()


def test_the_graph_computes_what_torch_computes(encoder: AudioEncoder) -> None:
    example = {"frames": torch.zeros(1, STEPS, BANDS), "mask": torch.ones(1, STEPS, 1)}
    graph = to_onnx(StageExport("audio", EncoderStage(encoder), example, ("features",)))
    assert lint(graph) == []
    rng = np.random.default_rng(1)
    for _ in range(4):
        frames = rng.normal(size=(1, STEPS, BANDS)).astype(np.float32)
        mask = (rng.random((1, STEPS, 1)) < 0.7).astype(np.float32)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(frames), torch.from_numpy(mask))[0].numpy()
        (given,) = small.run(graph, {"frames": frames, "mask": mask})
        assert given.shape == (1, FEATURES)
        assert np.abs(given - expected).max() < 1e-5


def test_frames_that_were_not_heard_change_nothing(encoder: AudioEncoder) -> None:
    frames, mask = torch.randn(1, STEPS, BANDS), torch.ones(1, STEPS, 1)
    mask[:, :10] = 0.0
    other = frames.clone()
    other[:, :10] = 5.0
    with torch.no_grad():
        assert torch.equal(encoder(frames, mask)[0], encoder(other, mask)[0])
        other[:, 12] = 5.0
        assert not torch.equal(encoder(frames, mask)[0], encoder(other, mask)[0])


def _seen(recipe: AudioRecipe, training: bool) -> torch.Tensor:
    """What reaches the layers [200, T, M] where every frame is 1."""
    torch.manual_seed(2)
    encoder = AudioEncoder(recipe, FEATURES).train(training)
    seen: list[torch.Tensor] = []
    encoder.layers.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(torch.ones(200, STEPS, BANDS), torch.ones(200, STEPS, 1))
    return seen[0][:, 0]


def test_hiding_noise_and_gain_are_of_training_alone() -> None:
    recipe = AudioRecipe("mic", widths=(4, 8), noise=0.1, gain=0.5, mask=0.5)
    assert torch.equal(_seen(recipe, training=False), torch.ones(200, STEPS, BANDS))
    gain = _seen(AudioRecipe("mic", widths=(4, 8), gain=0.5), training=True)
    assert torch.equal(gain, gain[:, :1, :1].expand_as(gain)), "one constant for all of a window"
    assert 0.4 < float(gain[:, 0, 0].std()) < 0.6
    hidden = _seen(AudioRecipe("mic", widths=(4, 8), mask=0.5), training=True) == 0
    rows, bands = hidden.all(2), hidden.all(1)
    assert torch.equal(hidden, rows[:, :, None] | bands[:, None, :]), "whole frames and whole bands"
    for part, length in ((rows, STEPS), (bands, BANDS)):
        starts = (part[:, 1:] & ~part[:, :-1]).sum(1) + part[:, 0]
        assert int(starts.max()) == 1, "one run"
        assert 0 < int(part.sum(1).max()) <= length // 2 + 1
