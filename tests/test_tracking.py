"""The tracker: the same thing keeps its number, on every run."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.tracking import PATIENCE_NS, STILL_NS, Seen, Tracks, follow

FRAME_NS = 33_000_000


def at(x: float, y: float, label: str = "car", side: float = 0.2) -> Seen:
    return Seen(label, (x, y, x + side, y + side))


def numbers(*pictures: list[Seen], step_ns: int = FRAME_NS) -> list[list[int]]:
    tracks, given_out = Tracks(), []
    for number, seen in enumerate(pictures):
        tracks, found = follow(tracks, seen, number * step_ns)
        given_out.append([track.number for track in found])
    return given_out


def test_a_thing_keeps_its_number_and_another_class_is_another_thing() -> None:
    assert numbers([at(0, 0)], [at(0.02, 0)], [at(0.04, 0), at(0.04, 0, "bus")]) == [[1], [1], [1, 2]]


def test_two_that_pass_each_other_keep_theirs_by_the_greater_overlap() -> None:
    pictures = [[at(0.1, 0.0), at(0.1, 0.15)], [at(0.1, 0.14), at(0.1, 0.01)]]
    assert numbers(*pictures) == [[1, 2], [2, 1]]


def test_what_is_hidden_for_a_moment_is_the_same_and_for_long_something_new() -> None:
    frames = PATIENCE_NS // FRAME_NS
    assert numbers([at(0, 0)], *[[]] * (frames - 1), [at(0, 0)])[-1] == [1]
    assert numbers([at(0, 0)], *[[]] * (frames + 1), [at(0, 0)])[-1] == [2]


def test_what_moves_is_told_from_what_trembles() -> None:
    tracks = Tracks()
    for number in range(60):
        shake = 0.004 * (-1) ** number
        seen = [at(0.1 + shake, 0.1 - shake), at(0.5, 0.01 * number, "bus")]
        tracks, (still, moving) = follow(tracks, seen, number * FRAME_NS)
    last_ns = 59 * FRAME_NS
    assert not still.moving(last_ns) and moving.moving(last_ns)
    # It stops: moving for a second more, then not.
    tracks, (_, stopped) = follow(tracks, seen, last_ns + STILL_NS // 2)
    assert stopped.moving(last_ns + STILL_NS // 2)
    tracks, (_, stopped) = follow(tracks, seen, last_ns + STILL_NS + FRAME_NS * 9)
    assert not stopped.moving(last_ns + STILL_NS + FRAME_NS * 9)


def test_what_comes_nearer_moves_though_its_middle_stays() -> None:
    tracks = Tracks()
    for number in range(20):
        grown = 0.1 + 0.005 * number
        seen = [Seen("car", (0.5 - grown, 0.5 - grown, 0.5 + grown, 0.5 + grown))]
        tracks, (track,) = follow(tracks, seen, number * FRAME_NS)
    assert track.moving(19 * FRAME_NS)


@given(st.integers(0, 10_000))
def test_every_run_gives_the_same_and_no_number_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [
        [at(rng.integers(4) / 5, rng.integers(4) / 5, str(rng.choice(["car", "bus"]))) for _ in range(rng.integers(6))]
        for _ in range(12)
    ]
    once = numbers(*pictures)
    assert once == numbers(*pictures)
    assert all(len(set(picture)) == len(picture) for picture in once)
    firsts = list(dict.fromkeys(number for picture in once for number in picture))
    assert firsts == list(range(1, len(firsts) + 1)), "numbers go up by one, in the order of their coming"
