"""`build-engines compare`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

_PATH = click.Path(path_type=Path)


@click.command("compare")
@click.argument("recipe_file", metavar="RECIPE", type=_PATH)
@click.option("--data", type=_PATH, default=None, help="Data folder instead of the recipe's.")
@click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="Where builds leave their models.")
@click.option("--epochs", type=click.IntRange(1), default=None, help="Shorten (or lengthen) every training to this.")
@click.option("--shared-encoders", is_flag=True, help="Fit heads on the recipe's own encoders: quick.")
@click.option("--report", type=_PATH, default=None, help="Write here instead of WORK/NAME/compare.")
@click.option(
    "--bundle", "names", multiple=True, metavar="BUNDLE", help="Compare these instead: nothing is trained. Repeatable."
)
@click.option("--trusted-key", "keys", type=_PATH, multiple=True, help="Public key (PEM) to trust; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Compare bundles that nobody signed.")
def compare_command(
    recipe_file: Path,
    data: Path | None,
    work: Path,
    epochs: int | None,
    shared_encoders: bool,
    report: Path | None,
    names: tuple[str, ...],
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Does fusion help, and what does it cost? RECIPE's modalities alone, every fusion and classical methods on the
    same split, each with its interval and its time on this machine; or bundles that are there already."""
    from build_engines.comparison.compare import compare
    from build_engines.comparison.compare_bundles import compare_bundles
    from build_engines.evaluation.run import write_files
    from build_engines.recipe import load_recipe
    from build_engines.run import make_build, provide_data
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path

    recipe, digest = load_recipe(recipe_file)
    console = Console()
    build = make_build(recipe, digest, data, work, work, console)
    provide_data(build)
    if names:
        bundles = [open_bundle(bundle_path(name), keys, allow_unsigned) for name in names]
        comparison = compare_bundles(build, bundles)
    else:
        comparison = compare(build, shared_encoders, epochs)
    console.print(comparison.table())
    for line in comparison.lines():
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    folder = report or build.work / "compare"
    write_files(folder, comparison.files())
    console.print(f"compare: {folder / 'compare.md'}", highlight=False, soft_wrap=True)
