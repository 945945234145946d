"""`build-engines inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.errors import UserError

_PATH = click.Path(path_type=Path)


@click.command("inspect")
@click.argument("graph", type=_PATH)
@click.option("--output", default="", help="The output to decide by.  [default: the first that holds numbers]")
@click.option(
    "--size", default="224x224", show_default=True, help="A picture's width and height where it leaves them open."
)
@click.option("--labels", type=_PATH, default=None, help="File with a label per line, in the output's order.")
@click.option("--write", type=_PATH, default=None, help="Write the recipe here instead of showing it.")
def inspect_command(graph: Path, output: str, size: str, labels: Path | None, write: Path | None) -> None:
    """Say what the ONNX file GRAPH is, whether it can be taken in, and propose a recipe.

    Exit 2 where it cannot be taken in as it is, with the reason.
    """
    from build_engines.adoption.inspect import inspect_model, propose

    inspection = inspect_model(graph, output, _size(size))
    for line in inspection.summary:
        click.echo(line)
    if inspection.problem:
        raise UserError(inspection.problem)
    recipe = propose(inspection, _labels(labels) if labels else ())
    if write is None:
        click.echo(f"\n{recipe}", nl=False)
        return
    if write.exists():
        raise UserError(f"{write} exists; choose another name")
    if write.resolve().parent != graph.resolve().parent:
        recipe = recipe.replace(f'file = "{graph.name}"', f'file = "{graph.resolve()}"')
    write.write_text(recipe, encoding="utf-8")
    click.echo(f"wrote {write}: look at the lines with a comment, then build-engines run {write} --data DATA")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) <= 8192 and 0 < int(height) <= 8192):
        raise UserError(f"--size {text}: give width and height in pixels, e.g. 320x240")
    return int(width), int(height)


def _labels(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file with a label per line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
