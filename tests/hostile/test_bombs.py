from __future__ import annotations

import random

import pytest

from edge_runtime.pictures import PictureError, decode, read_header
from edge_runtime.wire import decode_input
from tests.hostile import bombs


def test_what_is_mutated_was_valid_before() -> None:
    rng = random.Random(5)
    for _ in range(200):
        parts = bombs._valid(rng)
        assert decode_input(parts[0]).schema == 1
        if len(parts) == 2:
            assert decode(parts[1]).shape == (96, 160, 3)


def test_mutations_of_a_seed_are_the_same_and_most_are_different() -> None:
    first = [bombs.mutated(rng) for rng in [random.Random(6)] for _ in range(300)]
    assert first == [bombs.mutated(rng) for rng in [random.Random(6)] for _ in range(300)]
    assert len({tuple(parts) for parts in first}) > 250


def test_mutations_reach_headers_lengths_and_parts() -> None:
    rng = random.Random(7)
    messages = [bombs.mutated(rng) for _ in range(3000)]
    assert {1, 2, 3} <= {len(parts) for parts in messages}
    pictures = [parts[1] for parts in messages if len(parts) == 2]
    reasons = set()
    for data in pictures:
        try:
            read_header(data)
        except PictureError as error:
            reasons.add(error.reason)
    assert {"bad_size", "corrupt", "not_picture", "unsupported"} <= reasons


@pytest.mark.parametrize(("width", "height"), [(65500, 65500), (7680, 4320)])
def test_an_announced_size_is_in_the_header_only(width: int, height: int) -> None:
    data = bombs.announced(width, height)
    assert len(data) == len(bombs.frame())
    assert width.to_bytes(2, "big") in data and height.to_bytes(2, "big") in data


def test_bombs_are_small() -> None:
    assert max(map(len, bombs.pictures())) < 1 << 20
