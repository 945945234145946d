"""Two results of one benchmark side by side, where they are alike: same machine, same settings, same method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.results import PACKAGES
from edge_runtime.errors import UserError

MACHINE = ("cpu", "cores", "governor", "kernel", "python", *PACKAGES)
"""What must be equal. `edge_runtime` need not: its versions are what one compares."""
APART = ("benchmark", "machine", "settings", "method")
"""What is no figure."""


@click.command()
@click.argument("earlier", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("later", metavar="B.json", type=click.Path(path_type=Path))
def compare(earlier: Path, later: Path) -> None:
    """Figures of A.json and B.json and their ratios; unlike runs are refused (exit code 2)."""
    first, second = _read(earlier), _read(later)
    if unlike := list(differences(first, second)):
        raise UserError(f"compare: unlike runs: {'; '.join(unlike)}; take both on one machine with the same settings")
    table = Table(title=f"{first['benchmark']}: {earlier} and {later}", title_justify="left")
    for column in ("figure", "A", "B", "B / A"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    others = dict(figures(second))
    for name, value in figures(first):
        if name in others:
            ratio = f"{others[name] / value:.2f}" if value else ""
            table.add_row(name, f"{value:.2f}", f"{others[name]:.2f}", ratio)
    console = Console()
    console.print(table)
    for name, found in (("A", first), ("B", second)):
        if not found["machine"].get("quiet"):
            console.print(f"{name}: the machine was not quiet before: differences may be the other work's.")


def differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """What two results differ in that must be equal."""
    if first["benchmark"] != second["benchmark"]:
        yield f"benchmark {first['benchmark']} and {second['benchmark']}"
        return
    for part, keys in (
        ("machine", MACHINE),
        ("settings", sorted(first["settings"].keys() | second["settings"].keys())),
    ):
        for key in keys:
            one, other = first[part].get(key), second[part].get(key)
            if one != other:
                yield f"{key} {one} and {other}"
    if first.get("method") != second.get("method"):
        yield "another method"


def figures(found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every single figure by its place. Those of single rounds are left out."""
    for key, value in found.items():
        if key not in APART:
            yield from _figures(key, value)


def _figures(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _figures(f"{name} / {key}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"compare: {path} cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise UserError(f"compare: {path} is no JSON ({error}); give what a benchmark has written") from None
    parts = ("benchmark", "machine", "settings")
    if not isinstance(found, dict) or not all(part in found for part in parts):
        raise UserError(f"compare: {path} does not say {', '.join(parts)}; give what a benchmark has written")
    return found
