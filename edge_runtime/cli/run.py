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

    set_up_logging(verbose)
    answers = Answers()
    service = Service(load, answers)

    def stop(number: int, frame: FrameType | None) -> None:
        service.runtime.stop()
        _end_in_any_case()

    def reload(number: int, frame: FrameType | None) -> None:
        service.runtime.reload(service.load)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    if begin is not None:
        begin(service.runtime)
    try:
        service.run()
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


class Service:
    """A runtime, with the keeper of its slots where the configuration names some. Raises as `Runtime` does."""

    def __init__(self, load: Callable[[], Config], answer: Callable[[str | None], None]) -> None:
        self._load = load
        self._answer = answer
        self._prepare()

    def run(self) -> None:
        """Until the runtime comes to its end; what cannot be started gives way to what the slots fall back to."""
        from edge_runtime.errors import EdgeError

        while True:
            keeper = self._keeper
            if keeper is not None:
                keeper.watch(self.runtime)
            try:
                self.runtime.run()
                return
            except EdgeError as error:
                if keeper is None or not keeper.again(error):
                    raise
            finally:
                if keeper is not None:
                    keeper.close()
            self._prepare()

    def load(self) -> Config:
        """What a reload takes over."""
        from edge_runtime.bundles import SLOT
        from edge_runtime.errors import ConfigError

        config = self._load()
        if self._keeper is not None:
            return self._keeper.reloaded(config)
        if config.bundle.startswith(SLOT):
            raise ConfigError("`bundle` cannot change from or to slots while running; restart instead")
        return config

    def _prepare(self) -> None:
        from edge_runtime.runtime import Runtime
        from edge_runtime.slot_keeper import keeper_of

        config = self._load()
        self._keeper = keeper_of(config)
        if self._keeper is not None:
            config = self._keeper.begin(config)
        self.runtime = Runtime(config, answer=self._answered, listener=self._keeper)

    def _answered(self, reason: str | None) -> None:
        if self._keeper is not None:
            self._keeper.answered(reason)
        self._answer(reason)


def _end_in_any_case() -> None:
    """Have the process end in time, whatever hangs in it."""

    def end() -> None:
        log.warning("not everything has come to its end within %.1f s; left behind", LAST_S)
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(LAST_S, end)
    timer.daemon = True
    timer.start()
