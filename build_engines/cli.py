"""`build-engines`: exit 0 fine, 2 the user's mistake (one line), 3 a gate refused, 1 a bug (with its trace)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from build_engines.commands import compare_command, degrade_command, improve_command
from edge_runtime.cli import run_command as run_and_exit
from edge_runtime.errors import UserError

_PATH = click.Path(path_type=Path)


@click.group()
def cli() -> None:
    """Build bundles of fused multimodal models: from data, or from one's own ONNX, to a signed bundle."""


def _options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--engines/--no-engines", default=True, help="Put engines compiled ahead of time in the bundle."),
        click.option("--key", type=_PATH, default=None, help="Private key to sign with; without it, a key of its own."),
        click.option("--force", is_flag=True, help="Run stages even where nothing has changed."),
        click.option("--work", type=_PATH, default=Path("build"), show_default=True, help="What stages leave."),
        click.option("--out", type=_PATH, default=Path("bundles"), show_default=True, help="Where the bundle goes."),
        click.option("--data", type=_PATH, default=None, help="Data instead of the recipe's."),
    ):
        command = option(command)
    return click.argument("recipe", type=_PATH)(command)


def _run(
    recipe: Path,
    first: str | None,
    last: str | None,
    data: Path | None,
    out: Path,
    work: Path,
    force: bool,
    key: Path | None,
    engines: bool,
) -> None:
    from build_engines.recipe import load_recipe
    from build_engines.stages import make_job, run

    read, digest = load_recipe(recipe)
    run(make_job(read, digest, data, out, work, Console(), key, engines), first, last, force)


@cli.command("run")
@_options
@click.option("--from", "first", default=None, help="First stage to run.  [default: the recipe's first]")
@click.option("--to", "last", default=None, help="Last stage to run.  [default: bundle]")
def run_command(first: str | None, last: str | None, **options: Any) -> None:
    """Run RECIPE's stages in order; those that nothing has changed for are left out."""
    _run(first=first, last=last, **options)


_ONE_STAGE = {
    "train": "Train RECIPE's model.",
    "export": "Export the trained model to ONNX and prove the graphs equal to it.",
    "aggregate": "Let the trained model drive, and train once more on what it met (built-in world only).",
    "adopt": "Take in RECIPE's own ONNX graphs.",
    "calibrate": "Choose the calibration set, prove that it stands for the field, collect ranges.",
    "quantise": "Make FP16 and INT8 graphs, measure what each part costs, choose the plan.",
    "compile": "Compile engines ahead of time for the recipe's GPUs.",
    "gate": "Judge what will ship against FP32, with its report (the stage `evaluate`).",
    "bundle": "Sign what passed the gate and put it where bundles go.",
}


def _add_stage_command(name: str, summary: str) -> None:
    stage = "evaluate" if name == "gate" else name

    @cli.command(name, help=summary)
    @_options
    def command(**options: Any) -> None:
        _run(first=stage, last=stage, **options)


for _name, _summary in _ONE_STAGE.items():
    _add_stage_command(_name, _summary)


@cli.command("evaluate")
@click.option("--bundle", "bundle_name", required=True, help="Bundle directory or .tar, or shipped:NAME.")
@click.option("--data", type=_PATH, required=True, help="Data folder.")
@click.option("--split", default="val", show_default=True, help="Folder in the data folder.")
@click.option("--layout", "layout_name", default=None, help="Layout of the data instead of the bundle's own.")
@click.option("--json", "json_file", type=_PATH, default=None, help="Write the scores here.")
@click.option("--predictions", type=_PATH, default=None, help="Write every decision here, one JSON per line.")
@click.option("--drop", multiple=True, help="A stream, or camera, sensors or text, that never arrives; repeatable.")
@click.option("--ablate", is_flag=True, help="Also score every subset of the modalities.")
@click.option("--report", type=_PATH, default=None, help="Write the full report here: JSON, Markdown, HTML, pictures.")
@click.option("--rival", default=None, help="Test against this: a bundle, or a file that --predictions wrote.")
@click.option("--improve", type=_PATH, default=None, help="Try what would mend the worst, keep what is proven, here.")
@click.option("--degrade", is_flag=True, help="Also measure inputs that are missing, late or bad.")
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
    report: Path | None,
    rival: str | None,
    improve: Path | None,
    degrade: bool,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Score a bundle on labelled data, with the code that runs on the device."""
    from build_engines.data.datasets import layout_for
    from build_engines.evaluation import evaluate as ev
    from build_engines.evaluation.run import further
    from build_engines.improvement.improve import Loop
    from build_engines.improvement.run import improve_bundle
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path as find_bundle
    from edge_runtime.pipeline import Pipeline

    bundle = open_bundle(find_bundle(bundle_name), keys, allow_unsigned)
    layout = layout_for(bundle, data, split, layout_name)
    dropped = ev.dropped_streams(bundle, drop)
    console = Console()
    pipeline = Pipeline(bundle)
    try:
        result = ev.evaluate(pipeline, layout.read(data, split, pipeline.streams), dropped)
        ablation = ev.ablate(pipeline, layout, data, split) if ablate else []
        ev.show(console, bundle, split, result)
        if ablation:
            ev.show_ablation(console, result, ablation)
        if report is not None or rival is not None or degrade:
            read = partial(layout.read, data, split, pipeline.streams)
            further(pipeline, read, split, result, console, report, rival, degrade, keys, allow_unsigned)
        if improve is not None:
            improve_bundle(Loop(bundle, partial(layout.read, data, split, pipeline.streams), split), console, improve)
    finally:
        pipeline.close()
    try:
        if json_file is not None:
            json_file.write_bytes(ev.as_json(bundle, split, result, ablation))
        if predictions is not None:
            predictions.write_bytes(ev.predictions_jsonl(result))
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename} ({error.strerror}); check --json, --predictions and --report"
        ) from None


cli.add_command(compare_command)
cli.add_command(degrade_command)
cli.add_command(improve_command)


def main() -> None:
    """Entry point of `build-engines`."""
    sys.exit(run_and_exit(cli))


if __name__ == "__main__":
    main()
