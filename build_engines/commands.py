"""The commands of the evaluation standard beside `evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import Console

_PATH = click.Path(path_type=Path)


@click.command("degrade")
@click.option("--bundle", "bundle_name", required=True, help="Bundle directory or .tar, or shipped:NAME.")
@click.option("--data", type=_PATH, required=True, help="Data folder.")
@click.option("--split", default="val", show_default=True, help="Folder in the data folder.")
@click.option("--layout", "layout_name", default=None, help="Layout of the data instead of the bundle's own.")
@click.option("--moments", type=click.IntRange(1), default=None, help="At most so many moments, evenly spread.")
@click.option("--report", type=_PATH, default=None, help="Write degradation.json, .md and .png here.")
@click.option("--trusted-key", "keys", type=_PATH, multiple=True, help="Public key (PEM) to trust; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Take a bundle that nobody signed.")
def degrade_command(
    bundle_name: str,
    data: Path,
    split: str,
    layout_name: str | None,
    moments: int | None,
    report: Path | None,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Measure what a bundle still knows when inputs are missing, late or bad; exit 3 if a check fails."""
    import msgspec

    from build_engines.data.datasets import layout_for
    from build_engines.evaluation.degrade import degrade, limited
    from build_engines.evaluation.page import as_markdown
    from build_engines.evaluation.run import write_files
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.errors import GateRefused
    from edge_runtime.pipeline import Pipeline

    bundle = open_bundle(bundle_path(bundle_name), keys, allow_unsigned)
    layout = layout_for(bundle, data, split, layout_name)
    console = Console()
    pipeline = Pipeline(bundle)
    try:
        read = partial(layout.read, data, split, pipeline.streams)
        found = degrade(pipeline, limited(read, moments) if moments else read, console)
    finally:
        pipeline.close()
    console.print(found.table())
    for line in found.verdicts:
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if report is not None:
        title = f"{bundle.manifest.name} {bundle.manifest.version} on {split}"
        files = {
            "degradation.json": msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n",
            "degradation.md": as_markdown(title, found.verdicts, [found.section()]).encode(),
            "degradation.png": found.picture(),
        }
        write_files(report, files)
    if not found.passed:
        raise GateRefused("degrade: " + "; ".join(found.verdicts))


@click.command("compare")
@click.argument("recipe_file", metavar="RECIPE", type=_PATH)
@click.option("--data", type=_PATH, default=None, help="Data folder instead of the recipe's.")
@click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="Where builds leave their models.")
@click.option("--epochs", type=click.IntRange(1), default=None, help="Shorten (or lengthen) every training to this.")
@click.option("--shared-encoders", is_flag=True, help="Fit heads on the recipe's own encoders: quick.")
@click.option("--report", type=_PATH, default=None, help="Write here instead of WORK/NAME/compare.")
def compare_command(
    recipe_file: Path, data: Path | None, work: Path, epochs: int | None, shared_encoders: bool, report: Path | None
) -> None:
    """Does fusion help? RECIPE's modalities alone, every fusion and classical methods on the same split."""
    from build_engines.comparison.compare import compare
    from build_engines.evaluation.run import write_files
    from build_engines.line import provide_data
    from build_engines.recipe import load_recipe
    from build_engines.stages import make_job

    recipe, digest = load_recipe(recipe_file)
    console = Console()
    job = make_job(recipe, digest, data, work, work, console)
    provide_data(job)
    found = compare(job, shared_encoders, epochs)
    console.print(found.table())
    for line in found.lines():
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    folder = report or job.work / "compare"
    write_files(folder, found.files())
    console.print(f"compare: {folder / 'compare.md'}", highlight=False, soft_wrap=True)


@click.command("improve")
@click.argument("recipe_file", metavar="RECIPE", type=_PATH)
@click.option("--data", type=_PATH, default=None, help="Data folder instead of the recipe's.")
@click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="Where the build left its models.")
@click.option("--report", type=_PATH, default=None, help="Write here instead of WORK/NAME/improve.")
def improve_command(recipe_file: Path, data: Path | None, work: Path, report: Path | None) -> None:
    """From the worst labels and weakest stages of RECIPE's build, take the next step; keep it only if proven."""
    from build_engines.improvement.run import improve_build
    from build_engines.recipe import load_recipe
    from build_engines.stages import make_job

    recipe, digest = load_recipe(recipe_file)
    job = make_job(recipe, digest, data, work, work, Console())
    improve_build(job, report or job.work / "improve")
