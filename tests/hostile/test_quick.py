"""The quick form of `make hostile`: a running service under what is most likely to break it, some seconds each, judged
on all that holds however slow the machine is: it lives, within its memory, its sources are open, its accounts balance,
nothing stale is decided on, no log line is forged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.hostile.attacks import ATTACKS
from tests.hostile.drive import attack, judged, max_ages_ms, mutations, watch
from tests.hostile.judge import Heard, figures
from tests.hostile.service import Service, serve

SECONDS = 2.0
GROUPS = {
    "memory": ("endless_message", "endless_small_parts", "half_messages", "huge_messages", "many_parts"),
    "pictures, stamps and the log": ("picture_bombs", "pictures_of_4k", "wrong_stamps", "forged_lines", "poison"),
    "connections and subscriptions": (
        "connections_at_inputs",
        "bytes_at_inputs",
        "connections_at_decisions",
        "subscription_storm",
        "many_subscriptions",
        "huge_subscriptions",
    ),
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, Heard]]:
    """A service, and what was heard of it undisturbed."""
    with serve() as service:
        yield service, watch(service, 0.5)


KEYED = {
    "handshakes": ("handshakes_of_garbage", "handshakes_half_done", "unknown_keys", "plain_at_keys"),
    "a known client": (
        "known_at_line_rate",
        "known_with_pictures",
        "known_without_end",
        "known_again",
        "known_subscriptions",
    ),
}


@pytest.fixture(scope="module")
def running_with_keys() -> Iterator[tuple[Service, Heard]]:
    """One whose doors have keys."""
    with serve(keyed=True) as service:
        yield service, watch(service, 0.5)


@pytest.mark.parametrize("group", GROUPS)
def test_a_running_service_holds(running: tuple[Service, Heard], group: str) -> None:
    _holds(*running, group, GROUPS[group])


@pytest.mark.parametrize("group", KEYED)
def test_a_running_service_whose_doors_have_keys_holds(running_with_keys: tuple[Service, Heard], group: str) -> None:
    service, _ = running_with_keys
    _holds(*running_with_keys, group, KEYED[group])
    if group == "handshakes":
        status = service.statuses[-1]["status"]
        assert {"connection_unknown_key", "connection_other_server_key"} <= status["unrouted"].keys(), (
            "they came that far"
        )


def _holds(service: Service, quiet: Heard, group: str, names: Sequence[str]) -> None:
    during, sent, faults = attack(service, [ATTACKS[name] for name in names], SECONDS)
    found = figures(group, during, quiet, max_ages_ms(), service.alive, sent, faults)
    assert judged(found, timed=False).broken == ()
    assert sent > 0
    heard = len(service.decisions)
    deadline = time.monotonic() + 20
    while len(service.decisions) == heard and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(service.decisions) > heard, "and goes on deciding"


def test_of_twenty_thousand_mutated_messages_every_one_is_in_its_accounts() -> None:
    found = mutations(20_000, quiet_s=0.5)
    assert found.broken == ()
