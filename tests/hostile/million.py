"""Mutations of valid messages, thrown at the running service; every one must be in its accounts.

    python -m tests.hostile.million ENDPOINT COUNT SEED

The door ends a connection whose message has more than SURPLUS_FRAMES frames too many: that is the one thing that
mutations do to it. Such a message never arrives; the end of its connection is counted in its place, and since nothing
is sent behind it on that connection, nothing else is lost. The last line says how many these were, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.hostile import zmtp
from tests.hostile.attacks import NICENESS
from tests.hostile.bombs import mutated

FRAME_BYTES = (64 << 10, 8 << 20)
"""Of a message's first and second frame, at most; there is no third."""
SURPLUS_FRAMES = 64
CONNECTION = "connection_"
"""Reasons that begin so count connections, not messages."""
PATIENCE_S = 600.0


def ends_connection(parts: Sequence[bytes]) -> bool:
    """Whether the door ends the connection on which a message of these parts comes."""
    good = 0
    for part, most in zip(parts, FRAME_BYTES, strict=False):
        if len(part) > most:
            break
        good += 1
    return len(parts) - good > SURPLUS_FRAMES


def send(endpoint: str, count: int, seed: int) -> int:
    """`count` messages, waiting where they are not taken; how many of them have ended their connection.

    Raises TimeoutError where the door does not end what it should end, OSError where it ends what it should not.
    """
    rng, ended = random.Random(seed), 0
    link = _connect(endpoint)
    for _ in range(count):
        parts = mutated(rng)
        if ends_connection(parts):
            with contextlib.suppress(ConnectionError):
                link.sendall(zmtp.whole(parts))
                while link.recv(1024):
                    pass
            link.close()
            link, ended = _connect(endpoint), ended + 1
        else:
            link.sendall(zmtp.whole(parts))
    link.close()
    return ended


def _connect(endpoint: str) -> socket.socket:
    link = zmtp.peer(endpoint, "PUSH")
    link.settimeout(PATIENCE_S)
    return link


def accounted(status: Mapping[str, Any]) -> int:
    """Messages that a status tells of, taken or not."""
    unrouted = sum(count for reason, count in status["unrouted"].items() if not reason.startswith(CONNECTION))
    return sum(one["captured"] for one in status["streams"].values()) + unrouted


def ended(status: Mapping[str, Any]) -> dict[str, int]:
    """Connections that were ended for what came on them, by reason."""
    unrouted = status["unrouted"].items()
    return {reason.removeprefix(CONNECTION): count for reason, count in unrouted if reason.startswith(CONNECTION)}


def missing(status: Mapping[str, Any], sent: int, breaks: int) -> list[str]:
    """What a status does not tell of `sent` messages of which `breaks` have ended their connection, in words."""
    found, faults = accounted(status), []
    if found != sent - breaks:
        faults.append(f"{sent - breaks} messages came whole, {found} are accounted for")
    if (by_reason := ended(status)) != ({"malformed": breaks} if breaks else {}):
        faults.append(f"{breaks} connections were broken, {by_reason} are accounted for")
    return faults


if __name__ == "__main__":
    os.nice(NICENESS)
    print(json.dumps({"ended": send(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))}))
