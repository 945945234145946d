"""`build-engines improve`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

_PATH = click.Path(path_type=Path)


@click.command("improve")
@click.argument("recipe_file", metavar="RECIPE", type=_PATH)
@click.option("--data", type=_PATH, default=None, help="Data folder instead of the recipe's.")
@click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="Where the build left its models.")
@click.option("--report", type=_PATH, default=None, help="Write here instead of WORK/NAME/improve.")
def improve_command(recipe_file: Path, data: Path | None, work: Path, report: Path | None) -> None:
    """From the worst labels and weakest stages of RECIPE's build, take the next step; keep it only if proven."""
    from build_engines.improvement.run import improve_build
    from build_engines.recipe import load_recipe
    from build_engines.run import make_build

    recipe, digest = load_recipe(recipe_file)
    build = make_build(recipe, digest, data, work, work, Console())
    improve_build(build, report or build.work / "improve")
