"""Where in a JSON value something is: keys and numbers of elements, as JSONPath writes them (RFC 9535: names in dots,
`[n]`, a leading `$`), and no more of it. Pure; any thread."""

from __future__ import annotations

import re
from typing import Any

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,6})\]")

Place = tuple[str | int, ...]


def parse(text: str) -> Place:
    """Raises ValueError, which says how it is written."""
    rest = text[1:] if text.startswith("$") else text
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        step = _STEP.match(rest, at)
        # A name needs a dot before it, but for the first one where there is no `$`.
        if step is None or (step[1] and not step[0].startswith(".") and (steps or rest is not text)):
            raise ValueError(f"{text!r} is no place in JSON, such as air.co2 or rooms[0].temperature")
        steps.append(step[1] if step[1] is not None else int(step[2]))
        at = step.end()
    return tuple(steps)


def find(value: Any, place: Place) -> Any:
    """What is there. Raises LookupError where nothing is."""
    for step in place:
        if not isinstance(value, dict if isinstance(step, str) else list):
            raise LookupError(step)
        inside: Any = value
        value = inside[step]
    return value
