"""Find the TensorRT of this machine: `tensorrt` (JetPack's, or a data centre's) or `tensorrt_rtx` (PCs)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from edge_runtime.errors import UserError

log = logging.getLogger("edge_runtime.infer.tensorrt")

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
"""In the order of preference: where both are, `tensorrt` is the one that was chosen for the board."""
HARMLESS = (
    ("scales to fp32", "quantisation scales written as halves are widened, which loses nothing"),
    ("cudaError 35", "no GPU here: said on every build ahead of time, which needs none"),
    ("Error reading CUDA GPU properties", "no GPU here, as above"),
    ("differs from one already provided", "said when a second builder or runtime is made; there is one logger"),
    ("Using default stream in enqueueV3", "warm-up only; frames run on a stream of their own"),
)
"""Parts of messages that are no reason to look, and why."""
_MAX_REMEMBERED = 1000


class TensorRTUnavailable(UserError):
    """No TensorRT loads here; the message says why for each flavour."""


class MessageLog:
    """What TensorRT says. Warnings and errors go to whoever collects them, else to our log, each once, if they matter.

    A failed build or load only returns None; its reason stands nowhere but here.
    """

    def __init__(self, module: Any) -> None:
        self.last_error = ""
        """The newest error, for calls that only say that they failed."""
        self._collectors: list[list[str]] = []
        self._logged: set[str] = set()
        keep = self._keep
        severity = module.ILogger.Severity
        levels = {
            severity.INTERNAL_ERROR: logging.ERROR,
            severity.ERROR: logging.ERROR,
            severity.WARNING: logging.WARNING,
        }

        class Logger(module.ILogger):  # type: ignore[misc]  # the module is only known now
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in levels:
                    keep(levels[level], message)

        self.logger = Logger()
        """For the library's constructors. TensorRT keeps the first one it is given for the whole process."""

    @contextmanager
    def collect(self) -> Iterator[list[str]]:
        """A list that grows by every warning and error said meanwhile, the harmless ones too.

        Whoever collects must pass on what matters: it does not reach the log.
        """
        messages: list[str] = []
        self._collectors.append(messages)
        try:
            yield messages
        finally:
            # By identity: two lists that hold the same messages are equal.
            self._collectors = [other for other in self._collectors if other is not messages]

    def _keep(self, level: int, message: str) -> None:
        """Called by TensorRT, from any of its threads; must not raise."""
        message = " ".join(message.split())
        if level == logging.ERROR:
            self.last_error = message
        if self._collectors:
            self._collectors[-1].append(message)
        elif message not in self._logged and not is_harmless(message):
            if len(self._logged) >= _MAX_REMEMBERED:
                self._logged.clear()
            self._logged.add(message)
            log.log(level, "%s", message)


@dataclass(frozen=True)
class Library:
    """A TensorRT that loads. One per flavour and process."""

    flavour: Flavour
    version: str
    """In full, e.g. "10.3.0" or "1.7.1.116"."""
    module: Any
    messages: MessageLog

    @property
    def is_rtx(self) -> bool:
        return self.flavour == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def load_library(prefer: Sequence[Flavour] = FLAVOURS) -> Library:
    """The first of `prefer` that loads. Raises TensorRTUnavailable with every flavour's reason in one line."""
    reasons = []
    for flavour in prefer:
        library = _load(flavour)
        if isinstance(library, Library):
            return library
        reasons.append(f"{flavour}: {library}")
    raise TensorRTUnavailable(f"TensorRT is not usable ({'; '.join(reasons)})")


def find_library(prefer: Sequence[Flavour] = FLAVOURS) -> Library | None:
    """As `load_library`; None where nothing loads."""
    try:
        return load_library(prefer)
    except TensorRTUnavailable:
        return None


def is_harmless(message: str) -> bool:
    """Whether `message` is known to mean nothing: see HARMLESS."""
    return any(part in message for part, _reason in HARMLESS)


@cache
def _load(flavour: Flavour) -> Library | str:
    """The library, or why it does not load. Kept: a half-loaded extension module must not be tried again."""
    try:
        module = importlib.import_module(flavour)
        return Library(flavour, str(module.__version__), module, MessageLog(module))
    except ModuleNotFoundError as error:
        if error.name == flavour:
            return "not installed for this Python"
        return f"needs {error.name}, which is not installed"
    except Exception as error:  # its start-up code raises what it likes where a driver or a shared library is amiss
        return (str(error).splitlines() or [type(error).__name__])[0]
