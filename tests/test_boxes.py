"""Which of a detector's candidates are left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.boxes import MOST_CONSIDERED, overlaps, pick

COCO = pytest.importorskip("pycocotools.mask", reason="pycocotools is in the build extra")


def drawn(seed: int, count: int, classes: int = 3) -> NDArray[np.float32]:
    """[N, 4 + classes], in steps that make equal scores."""
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * 0.8
    boxes = np.concatenate([low, low + 0.02 + rng.random((count, 2)) * 0.2], axis=1)
    return np.concatenate([boxes, rng.integers(0, 20, (count, classes)) / 20], axis=1).astype(np.float32)


def plain(output: NDArray[np.float32], limit: float, overlap: float) -> list[tuple[int, float, tuple[float, ...]]]:
    """Greedy suppression by its definition, with the overlaps of pycocotools."""
    pairs = [(-float(row[4 + c]), i, c) for i, row in enumerate(output) for c in range(len(row) - 4)]
    kept: list[tuple[int, float, tuple[float, ...]]] = []
    for score, i, c in sorted(pair for pair in pairs if -pair[0] >= np.float32(limit)):
        box = [float(side) for side in output[i, :4]]
        sides = [[box[0], box[1], box[2] - box[0], box[3] - box[1]]]
        others = [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for other, _, b in kept if other == c]
        if not others or COCO.iou(sides, others, [0] * len(others)).max() <= overlap:
            kept.append((c, -score, tuple(box)))
    return kept


@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([0.05, 0.5, 0.9]), st.sampled_from([0.1, 0.45]))
def test_what_is_left_is_what_greedy_suppression_leaves(seed: int, count: int, limit: float, overlap: float) -> None:
    output = drawn(seed, count)
    picked = pick(output, np.full(3, limit), overlap, 1000)
    rows = zip(picked.classes, picked.scores, picked.boxes.tolist(), strict=True)
    ours = [(int(number), float(score), tuple(box)) for number, score, box in rows]
    assert ours == plain(output, limit, overlap)


def test_the_surest_are_kept_and_equal_ones_in_their_order() -> None:
    output = np.array([[0, 0, 1, 1, 0.5], [0, 0, 0.1, 0.1, 0.9], [0.5, 0.5, 0.6, 0.6, 0.5]], np.float32)
    assert pick(output, np.array([0.5]), 0.5, 2).boxes.tolist() == [
        output[1, :4].astype(np.float64).tolist(),
        [0, 0, 1, 1],
    ]
    assert len(pick(output, np.array([0.95]), 0.5, 2).boxes) == 0


def test_boxes_without_an_area_are_nothing() -> None:
    output = np.array([[0.5, 0.5, 0.5, 0.9, 0.9], [0.9, 0.1, 0.2, 0.3, 0.9]], np.float32)
    assert len(pick(output, np.array([0.1]), 1.0, 9).boxes) == 0


def test_a_graph_that_finds_everything_everywhere_costs_a_bounded_time() -> None:
    output = np.ones((20_000, 4 + 80), np.float32) * (0, 0, *[1] * 82)
    picked = pick(output.astype(np.float32), np.full(80, 0.5), 1.0, 5000)
    assert len(picked.boxes) == MOST_CONSIDERED


@given(st.integers(0, 10_000))
def test_overlaps_are_those_of_pycocotools(seed: int) -> None:
    some, others = (drawn(seed + k, 5)[:, :4].astype(np.float64) for k in (0, 1))

    def sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)

    np.testing.assert_allclose(overlaps(some, others), COCO.iou(sides(some), sides(others), [0] * 5), atol=1e-12)


def test_overlaps_of_nothing() -> None:
    nothing = np.zeros((0, 4))
    assert overlaps(nothing, np.ones((2, 4))).shape == (0, 2)
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]], "two points: no part in common"
