"""Mutations of valid messages, thrown at the running service; every one must be in its accounts.

python -m tests.hostile.million ENDPOINT COUNT SEED
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from typing import Any

import zmq

from tests.hostile.attacks import NICENESS
from tests.hostile.bombs import mutated


def send(endpoint: str, count: int, seed: int) -> None:
    """`count` messages, waiting where they are not taken; returns when all have left."""
    rng = random.Random(seed)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(endpoint)
        for _ in range(count):
            socket.send_multipart(mutated(rng))


def accounted(status: Mapping[str, Any]) -> int:
    """Messages that a status tells of, taken or not."""
    return sum(one["captured"] for one in status["streams"].values()) + sum(status["unrouted"].values())


if __name__ == "__main__":
    os.nice(NICENESS)
    send(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
