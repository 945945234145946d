"""The quick forms of `make hostile`: a running service, every attack for a moment; nothing is judged by time."""

from __future__ import annotations

import pytest

from tests.hostile.attacks import ATTACKS
from tests.hostile.drive import TOGETHER, mutations, run


@pytest.mark.timeout(600)
def test_every_attack_leaves_a_running_service_with_balanced_accounts() -> None:
    names = [name for name in ATTACKS]
    found = run(names, seconds=1.0, timed=False, quiet_s=0.2)
    assert [one.part for one in found] == names
    assert {one.part: one.broken for one in found if one.broken} == {}
    assert [one.part for one in found if not one.sent] == []


@pytest.mark.timeout(300)
def test_mutated_messages_are_all_accounted_for() -> None:
    found = mutations(20_000)
    assert (found.broken, found.sent) == ((), 20_000)
