"""`edge-runtime listen`: watch decisions as any subscriber would."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import UnsetType

if TYPE_CHECKING:
    from edge_runtime import Subscriber
    from edge_runtime.messages import Verdict
    from edge_runtime.wire import DecisionMessage

SHOW_EVERY_S = 1.0


@click.command()
@click.option("--connect", default="tcp://127.0.0.1:5560", show_default=True, help="Where decisions are published.")
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="This client's file of keys.")
@click.option("--name", default="", help="Only this runtime's decisions.")
@click.option("--all", "show_all", is_flag=True, help="Show every decision, not just changes and one a second.")
@click.option("--json", "as_json", is_flag=True, help="Print every decision as one JSON line.")
@click.option("--until-stopped", is_flag=True, help="End when the runtime says that it has stopped.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after this time.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write a summary (JSON) at the end.")
def listen(
    connect: str,
    keys: Path | None,
    name: str,
    show_all: bool,
    as_json: bool,
    until_stopped: bool,
    seconds: float | None,
    summary: Path | None,
) -> None:
    """Print decisions as they arrive; at the end, what was received, lost, and how fresh it was."""
    import msgspec

    from edge_runtime import Subscriber
    from edge_runtime.wire import DecisionMessage, StatusMessage

    latencies: list[float] = []
    labels: Counter[str] = Counter()
    shown: tuple[str, str] = ("", "")
    next_show = 0.0
    deadline = None if seconds is None else time.monotonic() + seconds
    with Subscriber(connect, name, high_water_mark=100_000, keys=keys) as subscriber:
        try:
            while deadline is None or time.monotonic() < deadline:
                message = subscriber.receive(0.2)
                if isinstance(message, DecisionMessage):
                    labels[message.label] += 1
                    if message.latency_ms.queue > 0:
                        latencies.append((subscriber.received_ns - message.captured_ns) / 1e6)
                    now, looks = time.monotonic(), (message.label, message.source)
                    if as_json:
                        click.echo(msgspec.json.encode(message))
                    elif show_all or looks != shown or now >= next_show:
                        click.echo(_line(message, subscriber))
                        shown, next_show = looks, now + SHOW_EVERY_S
                elif isinstance(message, StatusMessage) and until_stopped and message.state == "stopped":
                    break
        except KeyboardInterrupt:
            pass
        result = _summary(subscriber, latencies, labels)
    if summary is not None:
        summary.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps({key: value for key, value in result.items() if key != "status"}), err=True)


def _line(decision: DecisionMessage, subscriber: Subscriber) -> str:
    age_ms = (subscriber.received_ns - decision.captured_ns) / 1e6
    inputs = "  ".join(
        f"{name} {f'{state.age_ms:.0f} ms' if state.present and state.age_ms is not None else state.reason}"
        for name, state in decision.inputs.items()
    )
    clock = decision.wall_time[11:23]
    why = f" ({decision.reason})" if decision.reason else ""
    values = "" if isinstance(decision.values, UnsetType) else _values(decision.values)
    beside = {} if isinstance(decision.heads, UnsetType) else decision.heads
    extras = values + "".join(f" | {name}: {_side(answer)}" for name, answer in beside.items())
    return (
        f"{clock} #{decision.seq:<6} {decision.label:<12} {decision.confidence:4.2f} {decision.source:<5} "
        f"{age_ms:5.1f} ms | {inputs}{why}{extras}"
    )


def _values(values: Mapping[str, float]) -> str:
    return "".join(f" | {name} {value:.4g}" for name, value in values.items())


def _side(answer: Verdict) -> str:
    values = {} if isinstance(answer.values, UnsetType) else answer.values
    return f"{answer.label} {answer.source}{_values(values)}"


def _summary(subscriber: Subscriber, latencies: list[float], labels: Counter[str]) -> dict[str, Any]:
    import msgspec
    import numpy as np

    def percentile(q: float) -> float | None:
        return round(float(np.percentile(latencies, q)), 3) if latencies else None

    return {
        "received": subscriber.received,
        "lost": subscriber.lost,
        "labels": dict(labels),
        "capture_to_subscriber_ms": {"p50": percentile(50), "p99": percentile(99), "max": percentile(100)},
        "status": None if subscriber.status is None else msgspec.to_builtins(subscriber.status),
    }
