"""Files that hold a secret: nobody else's to read, and nobody else's to put something else in their place."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.plain_file import read_plain
from edge_runtime.trusted_path import others_may_read, others_may_write, why_replaceable

MAX_SECRET_BYTES = 4096


def check_private(path: Path, what: str) -> None:
    """Raise ConfigError, naming the setting `what`, where others may read, change or replace the file at `path`.
    Raises OSError where it cannot be looked at."""
    status = path.stat()
    if others_may_read(status):
        raise ConfigError(f"{what} {path}: others may read this secret; chmod 600 {path}")
    if others_may_write(status):
        raise ConfigError(f"{what} {path}: others may change it; chown and chmod go-w {path}")
    if (reason := why_replaceable(path)) is not None:
        raise ConfigError(f"{what} {path}: {reason}")


def first_line(path: Path, what: str) -> str:
    """The secret that is the file's first line. Raises ConfigError, naming the setting `what`; it never holds the
    secret."""
    try:
        check_private(path, what)
        text = read_plain(path, MAX_SECRET_BYTES).decode().splitlines()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: is not UTF-8") from None
    if not text or not text[0]:
        raise ConfigError(f"{what} {path}: its first line is empty")
    return text[0]
