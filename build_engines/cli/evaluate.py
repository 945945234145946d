"""`build-engines evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import Console

from edge_runtime.errors import UserError

_PATH = click.Path(path_type=Path)


@click.command("evaluate")
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
    from build_engines.progress import counted
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path as find_bundle
    from edge_runtime.pipeline import Pipeline

    bundle = open_bundle(find_bundle(bundle_name), keys, allow_unsigned)
    layout = layout_for(bundle, data, split, layout_name)
    dropped = ev.dropped_streams(bundle, drop)
    console = Console()
    pipeline = Pipeline(bundle)
    try:
        moments = counted(console, f"evaluate: {split}", layout.read(data, split, pipeline.streams))
        result = ev.evaluate(pipeline, moments, dropped)
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
