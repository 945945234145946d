"""The universal sentence encoder in torch against its definition, sentence by sentence and place by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from build_engines.modalities.text.use import BEGIN, END, ORDERS, load_use
from edge_runtime.errors import UserError

VOCABULARY, CHUNKS, WIDE = 12, 3, 32
Weights = dict[str, NDArray[Any]]


def small_weights(width: int = WIDE) -> Weights:
    """As its package keeps them, the table small; the convolutions' 256 channels are the code's."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.2, shape).astype(np.float32)

    weights: Weights = {
        f"q{chunk + 1}": rng.integers(0, 256, (VOCABULARY // CHUNKS, width)).astype(np.uint8) for chunk in range(CHUNKS)
    }
    weights |= {"lo": drawn(CHUNKS), "scale": np.abs(drawn(CHUNKS)) / 50, "eps": np.array(1e-6)}
    for order, _ in ORDERS:
        weights |= {f"proj{order}": drawn(width, 256), f"proj_b{order}": drawn(256)}
        weights |= {f"ln_g{order}": 1 + drawn(256), f"ln_b{order}": drawn(256)}
        for layer in "12":
            weights |= {f"w{layer}_{order}": drawn(order * 256, 256) / 4, f"b{layer}_{order}": drawn(256)}
    every = width + 3 * 256
    weights |= {"ln_g": 1 + drawn(every), "ln_b": drawn(every), "cnn_W": drawn(every, 24), "cnn_b": drawn(24)}
    weights |= {"d0": drawn(24, 8), "d1": drawn(8, 8), "p1": drawn(24, 8)}
    return weights | {"d2": drawn(8, 16), "p3": drawn(8, 512), "d3": drawn(16, 512)}


def normed(x: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-6) * gain + bias


def plain(weights: Weights, pieces: list[int]) -> NDArray[Any]:
    """One sentence by loops over its places."""
    ids = [BEGIN, *pieces, END]
    rows = [
        weights[f"q{piece % CHUNKS + 1}"][piece // CHUNKS] * weights["scale"][piece % CHUNKS]
        + weights["lo"][piece % CHUNKS]
        for piece in ids
    ]
    joined = {
        name: np.concatenate([weights[f"{name}{order}"] for order, _ in ORDERS], -1)
        for name in ("proj", "proj_b", "ln_g", "ln_b")
    }
    x = [normed(row @ joined["proj"] + joined["proj_b"], joined["ln_g"], joined["ln_b"]) for row in rows]
    seen = [list(rows)]
    for number, (order, before) in enumerate(ORDERS):
        part = [row[number * 256 : (number + 1) * 256] for row in x]
        for layer in "12":
            windows = [
                np.concatenate([
                    part[at] if 0 <= at < len(part) else np.zeros(256)
                    for at in range(place - before, place - before + order)
                ])
                for place in range(len(part))
            ]  # fmt: skip
            part = [
                own + np.maximum(window @ weights[f"w{layer}_{order}"] + weights[f"b{layer}_{order}"], 0)
                for own, window in zip(part, windows, strict=True)
            ]
        seen.append(part)
    every = [normed(np.concatenate(place), weights["ln_g"], weights["ln_b"]) for place in zip(*seen, strict=True)]
    mean = (np.sum(every, 0) @ weights["cnn_W"] + len(ids) * weights["cnn_b"]) / np.sqrt(len(ids))
    first = np.maximum(mean @ weights["p1"] + np.maximum(mean @ weights["d0"], 0) @ weights["d1"], 0)
    said = np.tanh(first @ weights["p3"] + np.maximum(first @ weights["d2"], 0) @ weights["d3"])
    direction: NDArray[Any] = said / np.sqrt((said**2).sum())
    return direction


def test_sentences_of_any_length_are_read_as_defined(tmp_path: Path) -> None:
    weights = small_weights()
    np.savez(tmp_path / "weights.npz", **weights)
    encoder = load_use(tmp_path / "weights.npz")
    assert encoder.table.dtype == torch.int8
    sentences = [[3, 7, 11, 4], [5], [9, 9, 0, 6, 8, 10, 3]]
    ids, mask = np.zeros((3, 7), np.int32), np.zeros((3, 7), np.float32)
    for row, pieces in enumerate(sentences):
        ids[row, : len(pieces)], mask[row, : len(pieces)] = pieces, 1
    with torch.no_grad():
        said = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    expected = np.stack([plain(weights, pieces) for pieces in sentences])
    np.testing.assert_allclose(said, expected, atol=2e-5)
    assert np.abs(said[0] - said[1]).max() > 1e-3


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    weights = small_weights()
    del weights["p3"]
    np.savez(tmp_path / "weights.npz", **weights)
    with pytest.raises(UserError, match="lack p3; they are of another network"):
        load_use(tmp_path / "weights.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="torn.npz: cannot be read"):
        load_use(tmp_path / "torn.npz")
