"""`build-engines`: exit 0 fine, 2 the user's mistake (one line), 3 a gate refused, 1 a bug (with its trace)."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from edge_runtime.cli import run_command as run_and_exit
from edge_runtime.errors import UserError

_PATH = click.Path(path_type=Path)


@click.group()
def cli() -> None:
    """Build bundles of fused multimodal models: train, export, bundle, evaluate."""


def _run(recipe_file: Path, data: Path | None, out: Path, work: Path, first: str, last: str) -> None:
    from build_engines.recipe import load_recipe
    from build_engines.stages import make_job, run

    recipe, digest = load_recipe(recipe_file)
    run(make_job(recipe, digest, data, out, work, Console()), first, last)


def _options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="What stages leave."),
        click.option("--out", type=_PATH, default=Path("bundles"), show_default=True, help="Where the bundle goes."),
        click.option("--data", type=_PATH, default=None, help="Data folder instead of the recipe's."),
    ):
        command = option(command)
    return click.argument("recipe", type=_PATH)(command)


@cli.command("run")
@_options
@click.option("--from", "first", default="train", show_default=True, help="First stage to run.")
@click.option("--to", "last", default="evaluate", show_default=True, help="Last stage to run.")
def run_command(recipe: Path, data: Path | None, out: Path, work: Path, first: str, last: str) -> None:
    """Run RECIPE's stages in order."""
    _run(recipe, data, out, work, first, last)


@cli.command("train")
@_options
def train_command(recipe: Path, data: Path | None, out: Path, work: Path) -> None:
    """Train RECIPE's model."""
    _run(recipe, data, out, work, "train", "train")


@cli.command("export")
@_options
def export_command(recipe: Path, data: Path | None, out: Path, work: Path) -> None:
    """Export the trained model to ONNX and prove the graphs equal to it."""
    _run(recipe, data, out, work, "export", "export")


@cli.command("bundle")
@_options
def bundle_command(recipe: Path, data: Path | None, out: Path, work: Path) -> None:
    """Put the exported stages into a bundle (unsigned)."""
    _run(recipe, data, out, work, "bundle", "bundle")


@cli.command("evaluate")
@click.option("--bundle", "bundle_name", required=True, help="Bundle directory or .tar, or shipped:NAME.")
@click.option("--data", type=_PATH, required=True, help="Data folder.")
@click.option("--split", default="val", show_default=True, help="Folder in the data folder.")
@click.option("--layout", "layout_name", default=None, help="Layout of the data; found from its files where not given.")
@click.option("--json", "json_file", type=_PATH, default=None, help="Write the scores here.")
@click.option("--predictions", type=_PATH, default=None, help="Write every decision here, one JSON per line.")
@click.option("--drop", multiple=True, help="A stream, or camera, sensors or text, that never arrives; repeatable.")
@click.option("--ablate", is_flag=True, help="Also score every subset of the modalities.")
@click.option("--trusted-key", "keys", type=_PATH, multiple=True, help="Public key (PEM) to trust; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Evaluate a bundle that nobody signed.")
def evaluate_command(
    bundle_name: str,
    data: Path,
    split: str,
    layout_name: str | None,
    json_file: Path | None,
    predictions: Path | None,
    drop: tuple[str, ...],
    ablate: bool,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Score a bundle on labelled data, with the code that runs on the device."""
    from build_engines import evaluate as ev
    from build_engines.datasets import layout_named, layout_of
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path as find_bundle
    from edge_runtime.pipeline import Pipeline

    bundle = open_bundle(find_bundle(bundle_name), keys, allow_unsigned)
    layout = layout_named(layout_name) if layout_name else layout_of(data, split)
    dropped = ev.dropped_streams(bundle, drop)
    pipeline = Pipeline(bundle)
    try:
        result = ev.evaluate(pipeline, layout.read(data, split, pipeline.streams), dropped)
        ablation = ev.ablate(pipeline, layout, data, split) if ablate else []
    finally:
        pipeline.close()
    console = Console()
    ev.show(console, bundle, split, result)
    if ablation:
        ev.show_ablation(console, ablation)
    try:
        if json_file is not None:
            json_file.write_bytes(ev.as_json(bundle, split, result, ablation))
        if predictions is not None:
            predictions.write_bytes(ev.predictions_jsonl(result))
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror}); check --json and --predictions") from None


def main() -> None:
    """Entry point of `build-engines`."""
    sys.exit(run_and_exit(cli))


if __name__ == "__main__":
    main()
