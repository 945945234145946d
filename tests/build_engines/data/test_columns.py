"""Rows on disk: what comes back is what was written, whatever is asked for; training sees no difference."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from build_engines.data import columns
from build_engines.data.columns import Column, joined, read_columns, write_columns
from build_engines.data.datasets import Prepared
from build_engines.data.paired import PairedSource
from build_engines.data.world import prepare
from build_engines.model.train import save, train
from build_engines.recipe import Recipe
from calibration.spread import WORKERS
from edge_runtime.errors import UserError

PICTURES = np.random.default_rng(1).integers(0, 256, (50, 3, 4), np.uint8)


def rows(count: int = 50) -> Iterator[dict[str, NDArray[Any] | str]]:
    for index in range(count):
        yield {"picture": PICTURES[index], "number": np.array(index, np.int64), "text": f"said {index}"}


def written(folder: Path) -> tuple[Column, Column]:
    found = write_columns(folder, rows())
    assert found["text"].tolist() == [f"said {index}" for index in range(50)]  # type: ignore[union-attr]
    picture, number = found["picture"], found["number"]
    assert isinstance(picture, Column) and isinstance(number, Column)
    return picture, number


@pytest.mark.parametrize(
    "asked",
    [
        np.array([4, 4, 49, 0, 1, 2, 30]),
        np.arange(50),
        np.array([], np.int64),
        slice(3, 40, 7),
        slice(None),
        slice(9, 9),
    ],
)
def test_rows_come_back_as_they_were_in_any_order(tmp_path: Path, asked: Any) -> None:
    picture, number = written(tmp_path / "kept")
    assert np.array_equal(picture[asked], PICTURES[asked]) and picture[asked].dtype == np.uint8
    assert number[asked].tolist() == np.arange(50)[asked].tolist()
    assert np.array_equal(picture[7], PICTURES[7]) and number.shape == (50,)


def test_all_of_it_block_by_block_in_another_process_and_twice_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BLOCK_BYTES", 60)
    picture, number = written(tmp_path / "kept")
    sent = pickle.loads(pickle.dumps(picture))
    twice = joined(sent, picture)
    assert isinstance(twice, Column) and len(twice) == 100
    assert np.array_equal(list(twice), np.concatenate([PICTURES, PICTURES]))
    assert np.array_equal(twice[np.array([49, 50, 51, 99, 0])], PICTURES[[49, 0, 1, 49, 0]])
    assert np.array_equal(np.asarray(number), np.arange(50))
    with pytest.raises(IndexError):
        twice[np.array([100])]


def test_what_was_opened_outlives_its_file(tmp_path: Path) -> None:
    picture, _ = written(tmp_path / "kept")
    write_columns(tmp_path / "kept", rows(3))
    assert np.array_equal(picture[:], PICTURES)


def test_only_what_is_whole_is_read_again(tmp_path: Path) -> None:
    written(tmp_path / "kept")
    again = read_columns(tmp_path / "kept")
    assert again is not None and np.array_equal(np.asarray(again["picture"]), PICTURES)
    (tmp_path / "kept" / "0.rows").write_bytes(b"short")
    assert read_columns(tmp_path / "kept") is None
    assert read_columns(tmp_path / "none") is None


def test_what_breaks_while_it_is_written_leaves_nothing_to_be_taken_for_whole(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, NDArray[Any] | str]]:
        yield from rows(5)
        raise UserError("no picture")

    with pytest.raises(UserError, match="no picture"):
        write_columns(tmp_path / "kept", broken())
    assert read_columns(tmp_path / "kept") is None


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep the data's tensors .* --work"):
        write_columns(tmp_path / "file" / "below", rows())


def _weights(recipe: Recipe, prepared: Prepared, out: Path) -> str:
    save(recipe, train(recipe, "", prepared, Console(quiet=True)), prepared, out)
    return hashlib.sha256((out / "weights.npz").read_bytes()).hexdigest()


def test_rows_on_disk_made_by_several_processes_train_the_same_weights(
    recipe: Recipe, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As arrays in memory that one process made."""
    short = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, epochs=2))
    monkeypatch.setenv(WORKERS, "1")
    alone = prepare(short, world, tmp_path / "alone")
    monkeypatch.setenv(WORKERS, "2")
    prepared = prepare(short, world, tmp_path / "two")
    source = alone.train
    assert isinstance(source, PairedSource)
    in_memory = {name: np.asarray(values) for name, values in source.arrays.items()}
    assert any(isinstance(values, Column) for values in source.arrays.values())
    own = msgspec.structs.replace(short, streams=alone.streams)
    held = PairedSource(own, alone.tokenizer, in_memory, {"scene": in_memory["labels"][:, 1].astype(np.int64)})
    val = list(alone.val)
    as_before = Prepared(alone.streams, alone.tokenizer, held, val, alone.digest)
    assert _weights(short, as_before, tmp_path / "a") == _weights(short, prepared, tmp_path / "b")


def test_what_lies_there_is_used_again_and_only_if_it_would_be_made_again(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    prepare(recipe, world, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.rows")}
    prepare(msgspec.structs.replace(recipe, seed=99), world, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.rows")} == before
    fewer = {name: spec for name, spec in recipe.streams.items() if name != "position"}
    prepare(msgspec.structs.replace(recipe, streams=fewer), world, tmp_path)
    after = set(tmp_path.rglob("*.rows"))
    assert len(after) == len(before) and not after & set(before)
