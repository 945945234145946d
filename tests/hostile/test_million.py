from __future__ import annotations

import random
from typing import Any

import pytest

from tests.hostile.bombs import mutated
from tests.hostile.million import FRAME_BYTES, SURPLUS_FRAMES, accounted, ended, ends_connection, missing


def status(unrouted: dict[str, int], **captured: int) -> dict[str, Any]:
    return {"streams": {name: {"captured": count} for name, count in captured.items()}, "unrouted": unrouted}


def test_messages_and_connections_are_counted_apart() -> None:
    one = status({"malformed": 3, "connection_malformed": 2, "connection_too_big": 1}, text=5, sensors=7)
    assert accounted(one) == 15
    assert ended(one) == {"malformed": 2, "too_big": 1}


@pytest.mark.parametrize(
    ("sent", "breaks", "faults"),
    [(17, 2, 0), (16, 2, 1), (18, 2, 1), (17, 1, 2), (16, 1, 1)],
)
def test_not_one_message_and_not_one_connection_may_be_missing(sent: int, breaks: int, faults: int) -> None:
    assert len(missing(status({"malformed": 3, "connection_malformed": 2}, text=12), sent, breaks)) == faults


def test_a_connection_that_was_ended_for_something_else_is_told() -> None:
    assert missing(status({"connection_no_frame": 1}, text=12), 13, 1) != []
    assert missing(status({}, text=12), 12, 0) == []


def test_what_ends_a_connection() -> None:
    assert not ends_connection([b"x"] * (2 + SURPLUS_FRAMES))
    assert ends_connection([b"x"] * (3 + SURPLUS_FRAMES))
    long = bytes(FRAME_BYTES[0] + 1)
    assert not ends_connection([long] + [b"x"] * (SURPLUS_FRAMES - 1))
    assert ends_connection([long] + [b"x"] * SURPLUS_FRAMES)


def test_mutations_do_both() -> None:
    rng = random.Random(1)
    found = [ends_connection(mutated(rng)) for _ in range(20_000)]
    assert 1 <= sum(found) < 200
