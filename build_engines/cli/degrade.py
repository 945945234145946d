"""`build-engines degrade`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

if TYPE_CHECKING:
    from build_engines.evaluation.degrade import Matrix

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
    from build_engines.data.datasets import layout_for
    from build_engines.evaluation.degrade import degrade, limited
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.pipeline import Pipeline

    bundle = open_bundle(bundle_path(bundle_name), keys, allow_unsigned)
    layout = layout_for(bundle, data, split, layout_name)
    console = Console()
    pipeline = Pipeline(bundle)
    try:
        read = partial(layout.read, data, split, pipeline.streams)
        matrix = degrade(pipeline, limited(read, moments) if moments else read, console)
    finally:
        pipeline.close()
    tell(matrix, f"{bundle.manifest.name} {bundle.manifest.version} on {split}", report, console)


def tell(matrix: Matrix, title: str, report: Path | None, console: Console) -> None:
    """Show the matrix, and write it into the folder `report`. Raises GateRefused where a check fails."""
    import msgspec

    from build_engines.evaluation.page import as_markdown
    from build_engines.evaluation.run import write_files
    from edge_runtime.errors import GateRefused

    console.print(matrix.table())
    for line in matrix.verdicts:
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if report is not None:
        files = {
            "degradation.json": msgspec.json.format(msgspec.json.encode(matrix), indent=1) + b"\n",
            "degradation.md": as_markdown(title, matrix.verdicts, [matrix.section()]).encode(),
            "degradation.png": matrix.picture(),
        }
        write_files(report, files)
    if not matrix.passed:
        raise GateRefused("degrade: " + "; ".join(matrix.verdicts))
