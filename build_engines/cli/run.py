"""`build-engines run`, and a command for each of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

_PATH = click.Path(path_type=Path)


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
    from build_engines.run import make_build, run

    read, digest = load_recipe(recipe)
    run(make_build(read, digest, data, out, work, Console(), key, engines), first, last, force)


@click.command("run")
@_options
@click.option("--from", "first", default=None, help="First stage to run.  [default: the recipe's first]")
@click.option("--to", "last", default=None, help="Last stage to run.  [default: bundle]")
def run_command(first: str | None, last: str | None, **options: Any) -> None:
    """Run RECIPE's stages in order; those that nothing has changed for are left out."""
    _run(first=first, last=last, **options)


_STAGES = {
    "choose": "Choose by cross-validation inside the training split.",
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


def _stage_command(name: str, summary: str) -> click.Command:
    stage = "evaluate" if name == "gate" else name

    @click.command(name, help=summary)
    @_options
    def command(**options: Any) -> None:
        _run(first=stage, last=stage, **options)

    return command


STAGE_COMMANDS = tuple(_stage_command(name, summary) for name, summary in _STAGES.items())
"""A command for each stage alone."""
