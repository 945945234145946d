"""The command line as a user calls it, in this process."""

from __future__ import annotations

import pytest

from build_engines.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `build-engines ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["build-engines", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
