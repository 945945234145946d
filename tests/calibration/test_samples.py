"""Samples that were put away come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from calibration.samples import CalibrationSample, SampleStore
from edge_runtime.tensor_source import PRESENCE, stream_tensor


def test_what_was_put_away_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [
        CalibrationSample(
            f"m{index}", "g", "a", "", ("camera",),
            {
                stream_tensor("camera", "image"): rng.integers(0, 256, (1, 6, 8, 3), np.uint8),
                PRESENCE: rng.random((1, 2)).astype(np.float32),
            } | ({stream_tensor("text", "ids"): np.arange(index, dtype=np.int32)[None]} if index % 2 else {}),
        )
        for index in range(6)
    ]  # fmt: skip
    store = SampleStore(tmp_path)
    for sample in given[:4]:
        store.keep(sample)
    early = store.take([1])
    for sample in given[4:]:
        store.keep(sample)
    assert list(tmp_path.iterdir()) == []  # it has no name
    for found, right in zip([*early, *store.take([5, 0])], (given[1], given[5], given[0]), strict=True):
        assert (found.id, found.present, set(found.tensors)) == (right.id, right.present, set(right.tensors))
        for name, value in right.tensors.items():
            assert found.tensors[name].dtype == value.dtype
            assert np.array_equal(found.tensors[name], value)
