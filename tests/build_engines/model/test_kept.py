"""Rows that frozen parts made are computed once, found again by everything that they depend on, and by nothing else."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from build_engines.modalities.layers import Encoded, FeatureHead
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.model.kept import CHUNK, KeptRows, RowFile
from build_engines.pretrained.shelf import Origin
from build_engines.recipe import AugmentRecipe

PLAN = AugmentRecipe(brightness=0.5, flip=True)


class Means(PretrainedEncoder):
    """A "network" whose frozen part is a matrix on the mean colour, and which counts what goes through it."""

    def __init__(self, views: int = 1, seed: int = 0) -> None:
        super().__init__(Origin("means", Path(), "", "means"), views, 0.1)
        torch.manual_seed(seed)
        self._frozen, self._unfrozen, self.head = nn.Linear(3, 5), nn.Sequential(), FeatureHead(5, 4, {}, False, 0.0)
        self._freeze()
        self.seen = 0
        self.batches: list[int] = []

    def kept(self, *inputs: Tensor) -> Tensor:
        self.seen += int(inputs[0].flatten(1).any(1).sum())
        self.batches.append(len(inputs[0]))
        made: Tensor = self._frozen(inputs[0].float().mean((1, 2)) / 255)
        return made

    def finish(self, kept: Tensor, *inputs: Tensor) -> Encoded:
        encoded: Encoded = self.head(kept)
        return encoded


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (count, 6, 8, 3), np.uint8)


def test_a_row_is_computed_once_and_is_what_a_call_gives(tmp_path: Path) -> None:
    encoder, images = Means().eval(), pictures(20)
    rows = KeptRows(tmp_path, PLAN, 0)
    twice = np.concatenate([images, images[::-1]])
    features = rows.encode("vision", encoder, [twice])[0]
    assert encoder.seen == 20
    assert set(encoder.batches[1:]) == {CHUNK}, "of one size always: rows do not depend on their neighbours"
    assert torch.allclose(features, encoder(torch.from_numpy(twice))[0], atol=1e-6)
    encoder.seen = 0
    again = KeptRows(tmp_path, PLAN, 0).encode("vision", encoder, [images[3:9]])[0]
    assert encoder.seen == 0
    assert torch.allclose(again, features[3:9], atol=1e-6)


def test_other_weights_and_other_pixels_are_other_rows(tmp_path: Path) -> None:
    images = pictures(2)
    first, other = Means().eval(), Means(seed=1).eval()
    KeptRows(tmp_path, PLAN, 0).encode("vision", first, [images])
    rows = KeptRows(tmp_path, PLAN, 0)
    rows.encode("vision", other, [images])
    assert other.seen == 2
    changed = images.copy()
    changed[0, 5, 7, 2] ^= 1
    rows = KeptRows(tmp_path, PLAN, 0)
    first.seen = 0
    rows.encode("vision", first, [changed])
    assert first.seen == 1


def test_training_sees_each_picture_in_so_many_versions_and_evaluation_as_it_is(tmp_path: Path) -> None:
    encoder, images = Means(views=3), pictures(1).repeat(60, 0)
    rows = KeptRows(tmp_path, PLAN, 0)
    versions = rows.encode("vision", encoder.train(), [images])[0].detach().numpy().round(4)
    versions = np.unique(versions, axis=0)
    assert encoder.seen == len(versions) == 3
    plain = rows.encode("vision", encoder.eval(), [images])[0]
    assert encoder.seen == 3, "the picture itself is one of the versions"
    assert any(np.allclose(plain[0].detach(), version, atol=1e-3) for version in versions)
    other = KeptRows(tmp_path, AugmentRecipe(brightness=0.4, flip=True), 0)
    other.encode("vision", encoder.train(), [images])
    assert encoder.seen == 5, "changed in another way: two new versions"


def test_what_fills_a_chunk_up_is_asked_for_later(tmp_path: Path) -> None:
    encoder, rows = Means(views=4).train(), KeptRows(tmp_path, PLAN, 0)
    images = pictures(CHUNK // 4)
    for _ in range(20):
        features = rows.encode("vision", encoder, [images])[0]
    assert encoder.seen == CHUNK, "all versions of all pictures, at the first call"
    assert len(features) == len(images)


def test_the_same_seed_draws_the_same_versions(tmp_path: Path) -> None:
    def drawn(folder: str, seed: int) -> Tensor:
        rows = KeptRows(tmp_path / folder, PLAN, seed)
        return torch.cat([rows.encode("vision", Means(views=4).train(), [pictures(9)])[0] for _ in range(3)])

    assert torch.equal(drawn("a", 5), drawn("b", 5))
    assert not torch.equal(drawn("a", 5), drawn("c", 6))


def test_without_a_folder_or_without_views_nothing_is_kept(tmp_path: Path) -> None:
    for folder, views in ((None, 3), (tmp_path, 0)):
        encoder, rows = Means(views=views).eval(), KeptRows(folder, PLAN, 0)
        assert not rows.keeps(encoder)
        for _ in range(2):
            rows.encode("vision", encoder, [pictures(3)])
        assert encoder.seen == 6
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "rows"


def numbered(places: Iterable[int]) -> dict[bytes, np.ndarray]:
    """Rows full of their own numbers, by name."""
    return {bytes([place]) * 16: np.full((2, 3), place, np.float32) for place in places}


@pytest.fixture
def written(stem: Path) -> Iterator[RowFile]:
    rows = RowFile(stem, (2, 3))
    rows.put(numbered(range(4)))
    yield rows
    rows.close()


def test_rows_are_read_by_name_and_found_again(stem: Path, written: RowFile) -> None:
    assert written.get([b"\2" * 16, b"\0" * 16, b"\2" * 16])[:, 0, 0].tolist() == [2, 0, 2]
    written.close()
    again = RowFile(stem, (2, 3))
    assert b"\3" * 16 in again and b"\4" * 16 not in again
    assert again.get([b"\3" * 16]).tolist() == [[[3] * 3] * 2]


@pytest.mark.parametrize(("end", "lost"), [(".rows", 1), (".rows", 25), (".names", 1), (".names", 17)])
def test_a_torn_end_is_cut_off_and_written_anew(stem: Path, written: RowFile, end: str, lost: int) -> None:
    written.close()
    file = stem.with_name(stem.name + end)
    file.write_bytes(file.read_bytes()[:-lost])
    for _ in range(2):
        rows = RowFile(stem, (2, 3))
        left = [place for place in range(4) if bytes([place]) * 16 in rows]
        assert left in ([0, 1, 2], [0, 1], [0, 1, 2, 3])
        assert rows.get([bytes([place]) * 16 for place in left])[:, 1, 2].tolist() == left
        rows.put(numbered(set(range(4)) - set(left)))
        assert rows.get([b"\3" * 16])[0, 0, 0] == 3
        rows.close()


def test_what_one_writes_the_other_finds_and_does_not_write_again(stem: Path, written: RowFile) -> None:
    second = RowFile(stem, (2, 3))
    second.put(numbered([7]))
    written.put(numbered([5, 7]))
    second.refresh()
    for rows in (second, written, RowFile(stem, (2, 3))):
        assert rows.get([bytes([place]) * 16 for place in (7, 1, 5)])[:, 0, 0].tolist() == [7, 1, 5]
        rows.close()
    assert stem.with_name("rows.rows").stat().st_size == 6 * 2 * 3 * 4


def _write(stem: Path, start: int) -> None:
    rows = RowFile(stem, (2, 3))
    for place in range(start, 200, 3):
        rows.put(numbered([place, place // 2]))


def test_many_at_once_do_not_mix_their_rows(stem: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(stem, start)) for start in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = RowFile(stem, (2, 3))
    assert rows.get([bytes([place]) * 16 for place in range(200)])[:, 1, 1].tolist() == list(range(200))
    assert stem.with_name("rows.names").stat().st_size == 200 * 16
