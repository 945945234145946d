"""`edge-runtime demo`: a whole vehicle on one machine, with a real subscriber process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

CONFIG = """\
name = "demo"
bundle = "shipped:vehicle"
allow_unsigned = true
stop_at_end = true

[[sink]]
kind = "zmq"
bind = "{decisions}"

[[source]]
kind = "world"
bind = "{inputs}"
seed = {seed}
duration_s = {seconds}
unplug = {unplug}
score = "{score}"

[stream.text]
stamp = "required"
"""
SPARE_S = 60.0


@click.command()
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5, 600), help="Length of the drive.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Which town, traffic and weather.")
@click.option(
    "--unplug",
    multiple=True,
    type=click.Choice(["camera", "range", "text"]),
    help="Pull this input's plug after 20 s; may be repeated.",
)
def demo(seconds: float, seed: int, unplug: tuple[str, ...]) -> None:
    """Drive the built-in town with the shipped vehicle bundle.

    Three processes talk over ZeroMQ as they would in a car: the world (camera, sensors, navigation voice), the
    runtime, and a subscriber that prints the decisions it receives. Ends by itself.
    """
    from rich.console import Console

    console = Console()
    with tempfile.TemporaryDirectory(prefix="edge-runtime-demo-") as folder:
        base = Path(folder)
        score_file, summary_file = base / "score.json", base / "summary.json"
        decisions, inputs = _address(5560), _address(5561)
        config = base / "demo.toml"
        config.write_text(
            CONFIG.format(
                decisions=decisions,
                inputs=inputs,
                seed=seed,
                seconds=seconds,
                unplug=json.dumps(list(unplug)),
                score=score_file,
            )
        )
        console.print(
            f"The town drive, seed {seed}, {seconds:g} s. Watch it from another terminal: "
            f"edge-runtime listen --connect {decisions}, or in a browser: edge-runtime dashboard --connect {decisions}",
            soft_wrap=True,
        )
        _drive(config, decisions, summary_file, seconds)
        score, summary = json.loads(score_file.read_text()), json.loads(summary_file.read_text())
    _show(console, score, summary)


def _address(port: int) -> str:
    """The usual address, or a free one where another runtime holds that."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    raise AssertionError("the system gives no free port")


def _drive(config: Path, decisions: str, summary: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "edge_runtime"]
    listener = subprocess.Popen(
        [*command, "listen", "--connect", decisions, "--until-stopped", "--summary", str(summary)],
        stderr=subprocess.DEVNULL,
    )
    try:
        runtime = subprocess.run([*command, "run", str(config)], timeout=seconds + SPARE_S, check=False)
        if runtime.returncode != 0:
            raise click.ClickException(f"the runtime ended with exit code {runtime.returncode}; see above")
        listener.wait(timeout=10)
    finally:
        listener.terminate()
        listener.wait()


def _show(console: Any, score: dict[str, Any], summary: dict[str, Any]) -> None:
    from rich.table import Table

    drive = Table(title="the drive", title_justify="left", show_header=False)
    for key, value in score.items():
        drive.add_row(key.replace("_", " "), json.dumps(value))
    console.print(drive)
    status, speed = summary["status"], summary["capture_to_subscriber_ms"]
    accounts = Table(title="every message accounted for", title_justify="left")
    for column in ("stream", "captured", "= decided", "+ dropped", "+ in flight", "why dropped"):
        accounts.add_column(column, justify="left" if column in ("stream", "why dropped") else "right")
    for name, stream in status["streams"].items():
        dropped = sum(stream["dropped"].values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in stream["dropped"].items())
        counts = (stream["captured"], stream["decided"], dropped, stream["in_flight"])
        accounts.add_row(name, *map(str, counts), reasons)
    console.print(accounts)
    console.print(
        f"decisions received {summary['received']}, lost {summary['lost']}; capture to subscriber "
        f"p50 {speed['p50']} ms, p99 {speed['p99']} ms; memory {status['memory_mb']} MB; "
        f"accounts {'balance' if status['conserved'] else 'DO NOT BALANCE'}",
        soft_wrap=True,
    )
