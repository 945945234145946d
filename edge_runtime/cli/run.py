"""`edge-runtime run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from edge_runtime.log_handler import log_to

if TYPE_CHECKING:
    from edge_runtime.config import Config
    from edge_runtime.runtime import Runtime

log = logging.getLogger("edge_runtime")


def set_up_logging(verbose: bool) -> None:
    """Log to standard error, where there is one; the journal adds its own time stamps."""
    times = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    level = logging.DEBUG if verbose else logging.INFO
    try:
        log_to(sys.stderr.fileno(), level, times + "%(levelname)s %(message)s")
    except (AttributeError, OSError, ValueError):
        logging.disable()


@click.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def run(config_file: Path, verbose: bool) -> None:
    """Capture, decide and publish as the TOML file CONFIG says, until stopped.

    SIGTERM and Ctrl-C finish the decision in hand and end within two seconds; SIGHUP (or `reload`)
    reads CONFIG again; decisions go on meanwhile, and a bad one changes nothing.
    """
    from edge_runtime.config import load_config

    serve(lambda: load_config(config_file), verbose)


def serve(load: Callable[[], Config], verbose: bool, begin: Callable[[Runtime], None] | None = None) -> None:
    """Run what `load` gives until a signal ends it; SIGHUP calls `load` again. `begin` is called before the start."""
    # OpenCV reports every failed attempt to open a camera; we report each change of state once.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "16")
    from edge_runtime.cli.reload import Answers
    from edge_runtime.runtime import Runtime

    set_up_logging(verbose)
    answers = Answers()
    runtime = Runtime(load(), answer=answers)

    def stop(number: int, frame: FrameType | None) -> None:
        runtime.stop()

    def reload(number: int, frame: FrameType | None) -> None:
        runtime.reload(load)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    if begin is not None:
        begin(runtime)
    try:
        runtime.run()
    finally:
        answers.close()
