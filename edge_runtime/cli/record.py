"""`edge-runtime record`: the service, with a recording of all that it took in and decided."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge_runtime.config import Config
    from edge_runtime.runtime import Runtime


@click.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="MCAP file to write.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after this time.")
@click.option("--max-gb", type=click.FloatRange(min=0, min_open=True), help="Stop recording at this size.")
@click.option(
    "--jpeg-quality",
    type=click.IntRange(50, 100),
    help="Keep a camera's decoded pictures as JPEG, not losslessly; a replay then need not decide the same.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def record(
    config_file: Path,
    out: Path,
    seconds: float | None,
    max_gb: float | None,
    jpeg_quality: int | None,
    verbose: bool,
) -> int:
    """Do as `run CONFIG` does, and record it: every message that was admitted, every decision.

    The file opens in Foxglove and other MCAP readers; `replay` decides it again. Ends as `run` does. Where the disk is
    full, or slower than what comes in, recording stops and says so, and decisions go on.
    """
    import msgspec

    from edge_runtime.cli.run import serve
    from edge_runtime.config import RecordingSink, load_config
    from edge_runtime.errors import ConfigError

    if out.exists():
        raise ConfigError(f"--out {out}: is there already; choose another name or remove it")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ConfigError(f"--out {out}: its folder cannot be written; check the path")
    recording = RecordingSink(str(out.absolute()), max_gb, jpeg_quality)

    def load() -> Config:
        config = load_config(config_file)
        return msgspec.structs.replace(config, record=None, sink=(*config.sink, recording))

    return serve(load, verbose, None if seconds is None else lambda runtime: _end_after(runtime, seconds))


def _end_after(runtime: Runtime, seconds: float) -> None:
    def body() -> None:
        runtime.started.wait()
        time.sleep(seconds)
        runtime.stop()

    threading.Thread(target=body, name="end", daemon=True).start()
