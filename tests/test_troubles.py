"""`ready` only while the model decides."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_runtime.troubles import MAX_REASON, Troubles
from edge_runtime.wire import SinkHealth, SourceHealth, StreamHealth
from tests import tiny
from tests.publish.test_sinks import decision

S = 1_000_000_000
GOOD = StreamHealth(captured=100, decided=100, dropped={}, in_flight=0, rate_hz=1000.0, expected_hz=1.0, alive=True)
SPECS = tiny.STREAMS


def reason(troubles: Troubles | None = None, now_ns: int = 0, **changes: Any) -> str | None:
    what: dict[str, Any] = {
        "specs": SPECS,
        "trigger": "camera",
        "streams": dict.fromkeys(SPECS, GOOD),
        "measured": SPECS,
        "sources": [SourceHealth("zmq", "running", None), SourceHealth("video", "ended", None)],
        "sinks": {"1 zmq": SinkHealth("open", 1, 0, 0, None)},
        "engines": None,
    }
    return (troubles or Troubles()).reason(now_ns, **what | changes)


def streams(**changes: StreamHealth) -> dict[str, StreamHealth]:
    return dict.fromkeys(SPECS, GOOD) | changes


def test_nothing_amiss_is_ready() -> None:
    assert reason() is None


SILENT = msgspec.structs.replace(GOOD, alive=False, rate_hz=0.0)
SLOW = msgspec.structs.replace(GOOD, rate_hz=0.49 * SPECS["camera"].rate_hz)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engines": "engine: gone"}, "engine: gone"),
        ({"streams": streams(camera=SILENT)}, "camera is silent"),
        ({"streams": streams(text=SILENT, sensors=SILENT)}, None),
        ({"streams": streams(camera=SLOW)}, f"camera comes at {SLOW.rate_hz:.3g} Hz, {SPECS['camera'].rate_hz:g} Hz"),
        ({"streams": streams(camera=SLOW), "measured": ["text"]}, None),
        ({"streams": streams(text=msgspec.structs.replace(GOOD, rate_hz=0.0))}, None),
        ({"sources": [SourceHealth("lidar", "waiting", "exit code 1")]}, "source lidar: exit code 1"),
        ({"sources": [SourceHealth("cam", "failed", None)]}, "source cam: failed"),
        ({"sinks": {"2 recording": SinkHealth("stopped", 9, 0, 0, "disk full")}}, "sink 2 recording: disk full"),
        ({"sinks": {"2 own": SinkHealth("blocked", 9, 0, 0, None)}}, "sink 2 own: blocked"),
    ],
)  # fmt: skip
def test_each_trouble_is_said(changes: dict[str, Any], said: str | None) -> None:
    found = reason(**changes)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_without_any_required_stream_no_input_at_all_is_said() -> None:
    specs = {name: msgspec.structs.replace(spec, required=False) for name, spec in SPECS.items()}
    assert reason(specs=specs, streams=dict.fromkeys(SPECS, SILENT)) == "no input"
    assert reason(streams=dict.fromkeys(SPECS, SILENT)) == "camera is silent"


def test_safe_decisions_for_longer_than_a_second_are_said_until_the_model_decides() -> None:
    troubles = Troubles()
    troubles.decided(decision(0, source="safe", reason="first", published_ns=10 * S))
    troubles.decided(decision(1, source="safe", reason="confidence 0.2", published_ns=12 * S))
    assert reason(troubles, 11 * S) is None
    assert reason(troubles, 13 * S) == "decisions are safe for 3 s: confidence 0.2"
    assert reason(troubles, 13 * S, streams=streams(camera=SILENT)) == "camera is silent", "the cause, not the effect"
    troubles.decided(decision(2, published_ns=14 * S))
    assert reason(troubles, 20 * S) is None
    troubles.decided(decision(3, source="safe", reason="again", published_ns=20 * S))
    assert reason(troubles, 20 * S + S) is None


def test_a_backlog_is_what_was_replaced_since_the_status_before() -> None:
    troubles = Troubles()

    def seen(captured: int, **dropped: int) -> str | None:
        return reason(
            troubles, streams=streams(camera=msgspec.structs.replace(GOOD, captured=captured, dropped=dropped))
        )

    assert seen(1000, replaced=900) is None, "what was before is not known"
    assert seen(1030, replaced=910) == "backlog: 10 of 30 camera messages were replaced before they were decided on"
    assert seen(1060, replaced=910, superseded=7) is None
    assert seen(1090, replaced=911, superseded=14) is not None
    assert seen(1094, replaced=915, superseded=14) is None, "too few to say"
    assert seen(1194, replaced=915, superseded=14, corrupt=90) is None
    assert seen(1199, replaced=917, superseded=14) is not None, "of five a part says something"
    assert seen(1203, replaced=921, superseded=14) is None
    assert seen(1223, replaced=926, superseded=14) is not None, "a quarter is a backlog"
    assert seen(1243, replaced=930, superseded=14) is None


def test_another_trigger_s_account_begins_anew() -> None:
    troubles = Troubles()
    many = msgspec.structs.replace(GOOD, captured=1000, dropped={"replaced": 900})
    assert reason(troubles) is None
    assert reason(troubles, trigger="sensors", streams=streams(sensors=many)) is None
    more = msgspec.structs.replace(many, captured=1100, dropped={"replaced": 1000})
    assert reason(troubles, trigger="sensors", streams=streams(sensors=more)) is not None


def test_half_the_expected_rate_and_a_second_of_safe_decisions_are_still_no_trouble() -> None:
    half = msgspec.structs.replace(GOOD, rate_hz=0.5 * SPECS["camera"].rate_hz)
    assert reason(streams=streams(camera=half)) is None
    troubles = Troubles()
    troubles.decided(decision(0, source="safe", reason="first", published_ns=10 * S))
    assert reason(troubles, 11 * S) is None
    assert reason(troubles, 11 * S + 1) == "decisions are safe for 1 s: first"


def test_reasons_are_said_together_and_bounded() -> None:
    found = reason(
        engines="engine: gone",
        streams=streams(camera=SILENT),
        sources=[SourceHealth("x" * 400, "failed", "y" * 400)],
    )
    assert (
        found is not None and found.startswith("engine: gone; camera is silent; source x") and len(found) == MAX_REASON
    )
