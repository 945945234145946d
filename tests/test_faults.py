"""The pages of faults name tests: each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("faults.md", "updates.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_the_page_names_exists(page: str) -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(named) > (40 if page == "faults.md" else 15)
    missing = [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_one(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    promises = [
        row for table in re.findall(r"^\| fault \|.*\n\|.*\n((?:\|.*\n)+)", text, re.M) for row in table.splitlines()
    ]
    assert len(promises) > 15
    assert [row for row in promises if not re.search(r"`tests/\S+::test_\w+` \|$", row)] == []
