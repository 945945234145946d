"""How a drive went: one frozen record, written as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct
from rich.table import Table

from edge_runtime.errors import UserError


class Score(Struct, frozen=True):
    """One drive's account."""

    seed: int
    duration_s: float
    """Simulated seconds driven (waiting for the first decision does not count)."""
    distance_m: float
    junctions_commanded: int
    """Junctions crossed; the town has a way for the car at each, told if the text stream is plugged in."""
    junctions_as_told: int
    wrong_turns: int
    red_lights_met: int
    """Approaches on which the light was red within 30 m of the stop line."""
    red_lights_run: int
    collisions: int
    """Without those where another vehicle ran into the car while it stood."""
    stopped_s: float
    longest_stop_s: float
    safe_stops: int
    """Times that the car braked by itself because no decision came for 500 ms."""
    ways: dict[str, int] = {}
    """Junctions crossed to the left, to the right, straight on."""
    decisions_received: int = 0
    safe_decisions: int = 0
    """Decisions with source `safe`."""
    labels: dict[str, int] = {}
    messages_sent: dict[str, int] = {}
    messages_unsent: int = 0
    late_frames: int = 0


def write_score(score: Score, path: Path) -> None:
    """Write `score` as JSON. Raises UserError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(score), indent=2) + b"\n")
    except OSError as error:
        raise UserError(f"score {path}: cannot be written ({error.strerror}); choose another file") from None


def score_table(score: Score) -> Table:
    """The score for people."""
    table = Table(title=f"Drive, seed {score.seed}", show_header=False)
    for name, value in msgspec.structs.asdict(score).items():
        table.add_row(name.replace("_", " "), _readable(value))
    return table


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    return f"{value:.1f}" if isinstance(value, float) else str(value)
