"""`edge-runtime demo town`: a whole vehicle on one machine, with a real subscriber process."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.demo.around import COMMAND, address, listener, show_accounts

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


def show_town(seconds: float, seed: int, unplug: tuple[str, ...]) -> None:
    """Three processes talk over ZeroMQ as they would in a car: the world (camera, sensors, navigation voice), the
    runtime, and a subscriber that prints the decisions it receives.
    """
    from rich.console import Console

    console = Console()
    with tempfile.TemporaryDirectory(prefix="edge-runtime-demo-") as folder:
        base = Path(folder)
        score_file = base / "score.json"
        decisions, inputs = address(5560), address(5561)
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
        with listener(base, decisions) as summed:
            runtime = subprocess.run([*COMMAND, "run", str(config)], timeout=seconds + SPARE_S, check=False)
            if runtime.returncode != 0:
                raise click.ClickException(f"the runtime ended with exit code {runtime.returncode}; see above")
            summary = summed()
        score = json.loads(score_file.read_text())
    console.print(score_table(score))
    show_accounts(console, summary)


def score_table(score: dict[str, Any]) -> Any:
    """How the drive went."""
    from rich.table import Table

    drive = Table(title="the drive", title_justify="left", show_header=False)
    for key, value in score.items():
        drive.add_row(key.replace("_", " "), json.dumps(value))
    return drive
