"""Counterfactual sentences: `turn on the porch light` gives `turn off the porch light`, with the other label."""

from __future__ import annotations

import re
from collections.abc import Sequence

from build_engines.recipe import OppositeRecipe


def opposite_of(text: str, label: str, rules: Sequence[OppositeRecipe]) -> tuple[str, str] | None:
    """`text` with the telling word swapped, and the label it then has; None where no rule applies.

    Latin words must stand alone (`on` is not in `front`); in scripts without spaces any occurrence counts. Only the
    first occurrence changes: a second `on` is mostly a place (`on the first floor`).
    """
    for rule in rules:
        if label not in rule.labels:
            continue
        mine = rule.labels.index(label)
        for pair in rule.words:
            swapped = _swap(text, pair[mine], pair[1 - mine], rule.keep)
            if swapped is not None:
                return swapped, rule.labels[1 - mine]
    return None


def _swap(text: str, old: str, new: str, keep: Sequence[str]) -> str | None:
    """`text` with the first `old` outside the words of `keep` replaced, or None if there is none."""
    telling = rf"\b{re.escape(old)}\b" if old.isascii() else re.escape(old)
    # Words to keep come first in the alternation, so they are consumed whole before `old` can match inside them.
    pattern = "|".join([*(re.escape(word) for word in keep), f"(?P<telling>{telling})"])
    for match in re.finditer(pattern, text, re.IGNORECASE):
        if match["telling"] is not None:
            return text[: match.start()] + new + text[match.end() :]
    return None
