"""What a part of the GPU benchmark finds, kept on disk as it is found: nothing is lost when a later step fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Findings:
    """One part's file, `<out>/<part>.json`: `figures` (anything), `checks` (what had to hold), `missing` (why not)."""

    def __init__(self, out: Path, part: str) -> None:
        """Starts the file anew."""
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / f"{part}.json"
        self._found: dict[str, Any] = {"part": part, "figures": {}, "checks": [], "missing": []}
        self._write()

    @property
    def found(self) -> dict[str, Any]:
        """All so far."""
        return self._found

    def figure(self, name: str, value: Any) -> None:
        """Keep a figure; `name` again replaces it."""
        self._found["figures"][name] = value
        print(f"{name}: {_short(value)}", flush=True)
        self._write()

    def check(self, name: str, holds: bool, detail: str = "") -> None:
        """Keep whether something held that had to."""
        self._found["checks"].append({"name": name, "holds": bool(holds), "detail": detail})
        print(f"{'holds ' if holds else 'FAILS '} {name}{f': {detail}' if detail else ''}", flush=True)
        self._write()

    def miss(self, reason: str) -> None:
        """Keep why something could not be found out."""
        self._found["missing"].append(reason)
        print(f"missing: {reason}", flush=True)
        self._write()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step among several: what it raises is a check that failed, and the next step goes on."""
        print(f"-- {name}", flush=True)
        try:
            yield
        except Exception as error:
            self.check(name, False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    def _write(self) -> None:
        # A part may be ended at any moment: the file is always a whole one.
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")
        new.replace(self._path)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."
