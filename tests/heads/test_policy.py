"""A policy's defaults and limits: what nobody sets changes nothing, and what makes no sense is not read."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.heads.policy import DecisionPolicy, PolicyState, set_away_from_default


def test_what_nobody_sets_neither_softens_nor_holds_nor_abstains() -> None:
    plain = DecisionPolicy()
    assert (plain.safe_label, plain.temperature, plain.threshold, plain.hold, plain.heartbeat_ms) == ("", 1, 0, 1, 500)
    assert (plain.thresholds, plain.needs, plain.immediate) == ({}, {}, ())
    assert PolicyState() == PolicyState(None, None, 0)


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("threshold", 0.0, -0.001),
        ("threshold", 1.0, 1.001),
        ("thresholds", {"go": 1.0}, {"go": 1.001}),
        ("temperature", 1e-12, 0.0),
        ("heartbeat_ms", 0.5, 0.0),
        ("hold", 1, 0),
    ],
)
def test_settings_have_limits(setting: str, good: object, bad: object) -> None:
    assert getattr(msgspec.convert({setting: good}, DecisionPolicy), setting) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({setting: bad}, DecisionPolicy)


def test_settings_that_somebody_changed_are_told_from_those_that_stand() -> None:
    assert set_away_from_default(DecisionPolicy()) == frozenset()
    assert set_away_from_default(DecisionPolicy("stop", hold=1, threshold=0.5)) == {"safe_label", "threshold"}
