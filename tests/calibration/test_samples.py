"""Samples that were put away come back as they were."""

from __future__ import annotations

import numpy as np

from calibration.samples import CalibrationSample, SampleStore
from edge_runtime.tensor_source import PRESENCE, stream_tensor


def test_what_was_put_away_comes_back_as_it_was() -> None:
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
    store = SampleStore()
    passed = store.keeping(iter(given))
    assert [next(passed).id for _ in range(4)] == ["m0", "m1", "m2", "m3"]
    early = store.take([1])
    assert [one.id for one in passed] == ["m4", "m5"]
    for found, right in zip([*early, *store.take([5, 0])], (given[1], given[5], given[0]), strict=True):
        assert (found.id, found.present, set(found.tensors)) == (right.id, right.present, set(right.tensors))
        for name, value in right.tensors.items():
            assert found.tensors[name].dtype == value.dtype
            assert np.array_equal(found.tensors[name], value)
