"""The pieces of training whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import f1_score

from build_engines.data.augment import Augmenter
from build_engines.data.datasets import Batch, Prepared
from build_engines.heads.softmax import softmax_fitted
from build_engines.heads.training import class_weights, fit_offsets
from build_engines.modalities.sensors import fit_channels
from build_engines.model.fused import FusedModel
from build_engines.model.train import LossOf, encode, predict, train
from build_engines.recipe import AugmentRecipe, Recipe
from edge_runtime.errors import UserError
from edge_runtime.streams import Channel, SensorStream


def test_class_weights_even_out_and_spare_the_unseen() -> None:
    weights = class_weights(np.array([10.0, 40.0, 0.0]), 0.5)
    assert weights.tolist() == pytest.approx([2.5**0.5, 0.625**0.5, 1.0])
    assert class_weights(np.array([10.0, 40.0]), 0.0).tolist() == [1.0, 1.0]


def test_temperature_of_overconfident_logits_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 4, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert softmax_fitted(logits * 3.0, labels)["temperature"] == pytest.approx(3.0, rel=0.1)


def test_offsets_take_macro_f1_to_its_best_and_nothing_where_there_is_nothing_to_gain() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(2000, generator=generator) < 0.1).long()  # a rare label that the argmax seldom names
    logits = torch.stack([torch.zeros(2000), labels * 1.5 - 2.0 + torch.randn(2000, generator=generator)], dim=1)
    before = f1_score(labels, logits.argmax(1), average="macro")
    moved = fit_offsets(logits, labels)
    assert moved[0] == 0
    assert 0.2 < moved[1] <= 1.0
    assert f1_score(labels, (logits + moved).argmax(1), average="macro") > before + 0.03
    perfect = torch.nn.functional.one_hot(labels, 2).float() * 9
    assert fit_offsets(perfect, labels).tolist() == [0.0, 0.0]


def test_moved_logits_are_in_the_weights(recipe: Recipe, prepared: Prepared) -> None:
    found = {}
    for offsets in (False, True):
        lesson = msgspec.structs.replace(recipe.train, epochs=2, offsets=offsets)
        found[offsets] = train(msgspec.structs.replace(recipe, train=lesson), "", prepared, Console(quiet=True))
    moved = torch.tensor(list(found[True].record.offsets.values()))
    assert len(moved) == 4
    assert moved.any()  # after two epochs the rarest labels are hardly named
    before, after = (predict(found[offsets].model, prepared.val)[0] for offsets in (False, True))
    assert torch.allclose(after - before, moved, atol=1e-5)
    assert found[False].record.offsets == {}


def test_augmentation_keeps_form_and_repeats_with_its_seed() -> None:
    plan = AugmentRecipe(shift=0.1, rotate_deg=10.0, scale=0.1, brightness=0.2, noise=3.0, flip=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3)).astype(np.uint8)
    first, again = Augmenter(plan, 1)(images), Augmenter(plan, 1)(images)
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, images)
    assert Augmenter(AugmentRecipe(), 1)(images) is images


def test_a_mixed_batch_is_judged_by_both_labels_and_their_shares(recipe: Recipe, prepared: Prepared) -> None:
    plan = msgspec.structs.replace(recipe.train, augment=AugmentRecipe(mixup=0.99), modality_dropout={})
    model = msgspec.structs.replace(recipe.model, text=None, sensors=None)
    alone = msgspec.structs.replace(recipe, model=model, train=plan, seed=4)
    torch.manual_seed(0)
    fused = FusedModel(alone, 1).eval()
    pictures = np.random.default_rng(1).integers(0, 256, (6, 1, 16, 16, 3)).astype(np.uint8)
    labels = np.array([0, 1, 2, 3, 0, 1])
    batch = Batch({"vision": (pictures,)}, {"vision": np.arange(6)}, labels, np.ones((6, 1), np.float32))
    mixed, mix = Augmenter(plan.augment, alone.seed).mix(pictures[:, 0])
    assert mix is not None
    judge = LossOf(alone, prepared)
    loss = float(judge(fused, *judge.changed(batch)).detach())
    with torch.no_grad():
        logits = fused.fusion(encode(fused, replace(batch, inputs={"vision": (mixed[:, None],)}))[0], torch.ones(6, 1))
    truth = torch.from_numpy(labels)
    own, other = (judge.losses[""](logits, one) for one in (truth, truth[torch.from_numpy(mix.partner)]))
    assert loss == pytest.approx(mix.share * float(own) + (1 - mix.share) * float(other), abs=1e-5)
    shared = replace(batch, rows={"vision": np.arange(6)[::-1].copy()})
    with pytest.raises(UserError, match="label of its own"):
        LossOf(alone, prepared).changed(shared)


def test_shifting_moves_up_to_the_stated_part() -> None:
    image = np.zeros((1, 40, 40, 3), np.uint8)
    image[0, 20, 20] = 255
    augment = Augmenter(AugmentRecipe(shift=0.1), 2)
    for _ in range(50):
        rows, columns = np.nonzero(augment(image)[0, :, :, 0] > 60)
        assert np.abs(rows - 20).max(initial=0) <= 5
        assert np.abs(columns - 20).max(initial=0) <= 5


def test_fitting_ignores_what_a_row_lacks() -> None:
    channels = (Channel("a", "V", -9.0, 9.0), Channel("still", "V", -9.0, 9.0))
    spec = SensorStream(channels, rate_hz=1.0, max_age_ms=10.0)
    fitted = fit_channels(spec, [{"a": 1.0, "still": 5.0}, {"a": 3.0}, {"still": 5.0}])
    assert (fitted.channels[0].mean, fitted.channels[0].std) == (2.0, 1.0)
    assert (fitted.channels[1].mean, fitted.channels[1].std) == (5.0, 1.0)


def test_unwatched_training_gives_the_same_weights(recipe: Recipe, prepared: Prepared) -> None:
    twice = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, epochs=2))
    watched, not_watched = (train(twice, "", prepared, Console(quiet=True), watched=flag) for flag in (True, False))
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, not_watched.model.state_dict()[name])
    assert len(watched.record.epochs) == 2
    assert not_watched.record.epochs == watched.record.epochs[1:]
