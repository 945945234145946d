"""`edge-runtime run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
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

EXIT_ENGINES, EXIT_AGAIN = 4, 75
LAST_S = 1.6
"""After a signal to end; two seconds are promised."""


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
def run(config_file: Path, verbose: bool) -> int:
    """Capture, decide and publish as the TOML file CONFIG says, until stopped.

    SIGTERM and Ctrl-C finish the decision in hand and end within two seconds; SIGHUP (or `reload`)
    reads CONFIG again; decisions go on meanwhile, and a bad one changes nothing.
    """
    from edge_runtime.config import load_config

    return serve(lambda: load_config(config_file), verbose)


def serve(load: Callable[[], Config], verbose: bool, begin: Callable[[Runtime], None] | None = None) -> int:
    """Run what `load` gives until a signal ends it; SIGHUP calls `load` again. `begin` is called before the start.

    The exit code: see `edge_runtime.cli`. Raises UserError for what is wrong with the configuration or the bundle.
    """
    # OpenCV reports every failed attempt to open a camera; we report each change of state once.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "16")
    from edge_runtime.cli.reload import Answers
    from edge_runtime.cuda import CudaUnavailable
    from edge_runtime.errors import EngineError, HeldError
    from edge_runtime.runtime import Runtime

    set_up_logging(verbose)
    answers = Answers()
    runtime = Runtime(load(), answer=answers)

    def stop(number: int, frame: FrameType | None) -> None:
        runtime.stop()
        _end_in_any_case()

    def reload(number: int, frame: FrameType | None) -> None:
        runtime.reload(load)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    if begin is not None:
        begin(runtime)
    try:
        runtime.run()
    except EngineError as error:
        log.error("%s", error)
        return EXIT_ENGINES
    except (HeldError, CudaUnavailable) as error:
        if "NOTIFY_SOCKET" not in os.environ:
            raise
        # What a service meets may have gone when it is started again: nothing is wrong with its files.
        log.error("%s", error)
        return EXIT_AGAIN if isinstance(error, HeldError) else EXIT_ENGINES
    finally:
        answers.close()
    return 0


def _end_in_any_case() -> None:
    """Have the process end in time, whatever hangs in it."""

    def end() -> None:
        log.warning("not everything has come to its end within %.1f s; left behind", LAST_S)
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(LAST_S, end)
    timer.daemon = True
    timer.start()
