"""Changes of pictures while training: what each does, that seeds repeat them, and that those left off touch nothing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.data.augment import Augmenter
from build_engines.recipe import AugmentRecipe

NEW = ("crop", "stretch", "colour", "blur", "dim", "erase", "mixup", "cutmix")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 24, 36, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "plan",
    [
        AugmentRecipe(crop=0.5, stretch=0.3), AugmentRecipe(colour=0.2), AugmentRecipe(erase=0.9),
        AugmentRecipe(blur=0.9), AugmentRecipe(dim=0.9),
    ],
)  # fmt: skip
def test_each_keeps_the_form_changes_something_and_repeats(plan: AugmentRecipe, images: NDArray[np.uint8]) -> None:
    before = images.copy()
    first, again, other = (Augmenter(plan, seed)(images) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, images)
    assert np.array_equal(images, before), "the caller's pictures stay"


def test_what_is_off_draws_nothing(images: NDArray[np.uint8]) -> None:
    """A recipe that names none of the newer changes keeps its random stream, and so its weights."""
    plan = AugmentRecipe(shift=0.1, rotate_deg=10.0, scale=0.1, brightness=0.2, flip=True)
    zeros = msgspec.structs.replace(plan, **dict.fromkeys(NEW, 0.0))
    plain, mixing = Augmenter(plan, 3), Augmenter(zeros, 3)
    for _ in range(3):
        mixed, mix = mixing.mix(mixing(images))
        assert mix is None
        assert np.array_equal(plain(images), mixed)


def test_a_crop_shows_a_part_enlarged() -> None:
    across = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, None, :, None], (1, 60, 120, 3))
    augment = Augmenter(AugmentRecipe(crop=0.5), 4)
    for _ in range(30):
        row = augment(np.ascontiguousarray(across))[0, 30, :, 0].astype(int)
        assert (np.diff(row) >= 0).all()
        # Half of the area is 0.71 of the width, all of it 1; two grey levels a pixel.
        assert 0.69 <= (row[-1] - row[0]) / (2 * 119) <= 1.0


def test_a_crop_may_be_stretched() -> None:
    rows, columns = np.mgrid[0:100, 0:100]
    image = np.stack([rows * 2, columns * 2, rows * 0], axis=-1).astype(np.uint8)[None]
    augment = Augmenter(AugmentRecipe(crop=0.6, stretch=0.5), 5)
    ratios = []
    for _ in range(60):
        seen = augment(image)[0].astype(float)
        ratios.append((seen[50, -1, 1] - seen[50, 0, 1]) / (seen[-1, 50, 0] - seen[0, 50, 0]))
    assert 1.2 < max(ratios) <= 1.53
    assert 1 / 1.53 <= min(ratios) < 1 / 1.2


def test_colours_change_each_by_itself() -> None:
    grey = np.full((40, 8, 8, 3), 100, np.uint8)
    seen = Augmenter(AugmentRecipe(colour=0.2), 6)(grey)[:, 0, 0].astype(int)
    assert seen.min() >= 80
    assert seen.max() <= 120
    assert (np.ptp(seen, axis=1) > 2).mean() > 0.9


def test_a_blur_widens_an_edge_of_a_share_of_the_pictures_up_to_its_limit() -> None:
    width = 160
    edges = np.zeros((300, 8, width, 3), np.uint8)
    edges[:, :, width // 2 :] = 200
    before = edges.copy()
    seen = Augmenter(AugmentRecipe(blur=0.4), 11)(edges)
    assert np.array_equal(edges, before)
    changed = (seen != edges).any((1, 2, 3))
    assert 0.3 < changed.mean() < 0.5
    # A blurred edge is the normal distribution's integral: from 16 % to 84 % of its height it is two deviations wide.
    between = ((seen[changed, 4, :, 0] > 0.16 * 200) & (seen[changed, 4, :, 0] < 0.84 * 200)).sum(1)
    assert between.max() <= 2 * 0.025 * width + 1
    assert between.max() >= 6, "some are as blurred as the limit allows"
    assert between.min() <= 2, "and some hardly"
    assert np.abs(seen.mean((1, 2, 3)) - 100).max() < 1


def test_a_dim_picture_is_the_same_with_less_light() -> None:
    bright = np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8)[None, None, :, None], (400, 2, 24, 3)).copy()
    seen = Augmenter(AugmentRecipe(dim=0.5), 12)(bright)
    gains = seen[:, 0, -1, 0] / 230
    assert 0.4 < (gains < 1).mean() < 0.6
    assert 0.14 <= gains.min() < 0.25
    assert np.abs(seen[:, 0, :, 0] - gains[:, None] * bright[:, 0, :, 0]).max() <= 1.1


def test_erasing_covers_a_rectangle_of_the_stated_area() -> None:
    images = np.zeros((200, 40, 60, 3), np.uint8)
    seen = Augmenter(AugmentRecipe(erase=0.5), 7)(images)
    parts = (seen.max(-1) > 0).mean((1, 2))
    assert 0.35 < (parts > 0).mean() < 0.65
    assert parts[parts > 0].min() >= 0.01
    assert parts.max() <= 0.23
    for one in seen[parts > 0]:
        rows, columns = np.nonzero(one.max(-1))
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def _levels(count: int = 8) -> NDArray[np.uint8]:
    """A grey picture per row, each of its own level."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * 30, (count, 32, 48, 3)).copy()


def test_mixup_blends_by_the_share() -> None:
    images, augment = _levels(), Augmenter(AugmentRecipe(mixup=0.99), 8)
    for _ in range(20):
        mixed, mix = augment.mix(images)
        if mix is None:
            continue
        assert mixed.dtype == np.uint8
        expected = mix.share * images.astype(float) + (1 - mix.share) * images[mix.partner]
        assert np.abs(mixed - expected).max() <= 0.51


def test_cutmix_pastes_by_the_share() -> None:
    images, augment = _levels(), Augmenter(AugmentRecipe(cutmix=0.99), 9)
    for _ in range(20):
        before = images.copy()
        mixed, mix = augment.mix(images)
        assert np.array_equal(images, before)
        if mix is None:
            continue
        for own, other, seen in zip(images, images[mix.partner], mixed, strict=True):
            if own[0, 0, 0] != other[0, 0, 0]:
                assert (seen[..., 0] == own[0, 0, 0]).mean() == pytest.approx(mix.share)
                assert set(np.unique(seen)) <= {own[0, 0, 0], other[0, 0, 0]}


def test_batches_are_mixed_as_often_as_the_recipe_says_and_repeat_with_the_seed() -> None:
    images, plan = _levels(), AugmentRecipe(mixup=0.3, cutmix=0.2)
    first, again = Augmenter(plan, 10), Augmenter(plan, 10)
    mixed = 0
    for _ in range(300):
        (one, how), (two, _) = first.mix(images), again.mix(images)
        assert np.array_equal(one, two)
        mixed += how is not None
    assert 0.4 < mixed / 300 < 0.6
