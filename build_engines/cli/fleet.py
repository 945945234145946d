"""`build-engines fleet`: over the recordings of many devices."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

if TYPE_CHECKING:
    from build_engines.fleet.gather import Work
    from build_engines.fleet.report import Report
    from edge_runtime.bundle import Bundle

_PATH = click.Path(path_type=Path)
_ENGINES = ("local", "ray")


@click.group("fleet")
def fleet_command() -> None:
    """Evaluate, degrade, compare, calibrate, index: over recordings (folders, .mcap files, .txt files with names)."""


def _work_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--allow-unsigned", is_flag=True, help="Take a bundle that nobody signed."),
        click.option("--trusted-key", "keys", type=_PATH, multiple=True, help="Public key (PEM) to trust; repeatable."),
        click.option("--work", default=None, help="Keep what is done here, and go on from it: a folder, or a URL."),
        click.option(
            "--address", default=None, help="Of a Ray cluster.  [default: one on this machine, while it lasts]"
        ),
        click.option("--workers", type=click.IntRange(1), default=None, help="At once.  [default: a worker per core]"),
        click.option("--engine", type=click.Choice(_ENGINES), default="local", show_default=True, help="Who does it."),
    ):
        command = option(command)
    return click.argument("recordings", nargs=-1, required=True, type=_PATH)(command)


def _work(engine: str, workers: int | None, address: str | None, work: str | None) -> Work:
    from build_engines.fleet.executors import executor_of
    from build_engines.fleet.gather import Work
    from build_engines.fleet.store import Store

    store = None if work is None else Store(work)
    return Work(executor_of(engine, workers, address), store, Console(stderr=True))


def _opened(names: Sequence[str], keys: tuple[Path, ...], allow_unsigned: bool) -> tuple[Bundle, ...]:
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path

    return tuple(open_bundle(bundle_path(name), keys, allow_unsigned) for name in names)


@fleet_command.command("evaluate")
@_work_options
@click.option("--bundle", "bundle_name", required=True, help="Bundle directory or .tar, or shipped:NAME.")
@click.option("--condition", default="", help="Column of the labels that tells circumstances apart.")
@click.option("--report", type=_PATH, default=None, help="Write evaluation.json and evaluation.md here.")
def evaluate_command(bundle_name: str, condition: str, report: Path | None, **options: Any) -> None:
    """Decide RECORDINGS again with a bundle: what it decides, how often and why safely, how old inputs were, what is
    otherwise than recorded; and its scores where somebody has said what was right."""
    found = _looked((bundle_name,), condition, **options)
    _write(found, report, "evaluation", f"{_names(found)} over {found.recordings} recordings")


@fleet_command.command("degrade")
@_work_options
@click.option("--bundle", "name", required=True, help="Bundle directory or .tar, or shipped:NAME.")
@click.option("--report", type=_PATH, default=None, help="Write degradation.json, .md and .png here.")
def degrade_command(
    name: str, report: Path | None, recordings: tuple[Path, ...], engine: str, workers: int | None, address: str | None,
    work: str | None, keys: tuple[Path, ...], allow_unsigned: bool,
) -> None:  # fmt: skip
    """What a bundle still knows on the labelled moments of RECORDINGS when inputs are missing, late or bad. Exit code 3
    where a check fails."""
    from build_engines.cli.degrade import tell
    from build_engines.data.datasets import dataset_for
    from build_engines.fleet.degrading import Degraded, Degrading, matrix_of
    from build_engines.fleet.gather import gather
    from build_engines.fleet.recordings import find

    (bundle,) = _opened((name,), keys, allow_unsigned)
    sources = find(recordings)
    task = Degrading.of(bundle, dataset_for(bundle, "recordings"))
    found = gather(task, Degraded, sources, _work(engine, workers, address, work))
    labelled = len(found.partials) - sum(one.unlabelled for one in found.partials.values())
    title = f"{bundle.manifest.name} {bundle.manifest.version} over {labelled} labelled recordings"
    tell(matrix_of(bundle, found.partials), title, report, Console())


@fleet_command.command("compare")
@_work_options
@click.option("--bundle", "first", required=True, help="The bundle that runs; directory, .tar or shipped:NAME.")
@click.option("--candidate", required=True, help="The bundle that is to take its place.")
@click.option("--condition", default="", help="Column of the labels that tells circumstances apart.")
@click.option("--safe-rise", type=click.FloatRange(0, 1), default=0.01, show_default=True,
              help="Refuse a candidate whose share of safe decisions rises by more, under any condition.")  # fmt: skip
@click.option("--report", type=_PATH, default=None, help="Write comparison.json and comparison.md here.")
def compare_command(
    first: str, candidate: str, condition: str, safe_rise: float, report: Path | None, **options: Any
) -> None:
    """Before a rollout goes up: two bundles on the same RECORDINGS, their differences paired by recording under each
    condition. Exit code 3 where the candidate loses more than the gate allows."""
    from edge_runtime.errors import GateRefused

    found = _looked((first, candidate), condition, safe_rise=safe_rise, **options)
    _write(found, report, "comparison", f"{_names(found)} over {found.recordings} recordings")
    if found.failures:
        raise GateRefused(f"compare: {'; '.join(found.failures)}")


@fleet_command.command("calibrate")
@_work_options
@click.option("--bundle", "name", required=True, help="The bundle to calibrate; directory, .tar or shipped:NAME.")
@click.option("--count", type=click.IntRange(1), default=300, show_default=True, help="Moments, at most.")
@click.option("--out", type=_PATH, default=Path("calibration.mcap"), show_default=True, help="The recording to write.")
def calibrate_command(
    name: str, count: int, out: Path, recordings: tuple[Path, ...], engine: str, workers: int | None,
    address: str | None, work: str | None, keys: tuple[Path, ...], allow_unsigned: bool,
) -> None:  # fmt: skip
    """The moments that stand for all RECORDINGS, spread over what was decided, folders and recordings, as one small
    recording: a recipe's calibrate.recordings names it, and its build does the rest."""
    from collections import Counter

    from build_engines.fleet.extract import extracts, write_recording
    from build_engines.fleet.gather import spool
    from build_engines.fleet.recordings import find
    from build_engines.fleet.reservoir import Reservoir, Sampling, chosen, joined, named

    (bundle,) = _opened((name,), keys, allow_unsigned)
    sources = find(recordings)
    by_id = {source.id: source for source in sources}
    whole = Reservoir(0, {})
    with tempfile.TemporaryDirectory(prefix="edge-runtime-calibrate-") as folder:
        task = Sampling.of(bundle, count)
        parts, left_out = spool(task, Reservoir, sources, _work(engine, workers, address, work), Path(folder))
        for recording, part in parts():
            whole = joined(whole, named(part, recording), count)
    moments = chosen(whole, by_id, count)
    wanted = [(moment.group, int(moment.id.rpartition("/")[2])) for moment in moments]
    streams = bundle.manifest.streams
    write_recording(out, extracts(wanted, by_id, streams), streams)
    labels = ", ".join(f"{label} {number}" for label, number in sorted(Counter(one.label for one in moments).items()))
    click.echo(
        f"calibrate: {out}: {len(moments)} of {whole.moments} moments ({labels}), of "
        f"{len({one.group for one in moments})} of {len(sources) - len(left_out)} recordings"
    )


@fleet_command.command("index")
@_work_options
@click.option("--bundle", "first", required=True, help="The bundle that decides again; directory, .tar, shipped:NAME.")
@click.option("--candidate", default=None, help="Another bundle: where the two disagree.")
@click.option("--reference", type=_PATH, default=None,
              help="Index of recordings that stand for the training data.  [default: RECORDINGS]")  # fmt: skip
@click.option("--every-ms", type=click.FloatRange(0), default=500.0, show_default=True,
              help="Keep at most one moment in so long, besides those where the decision changes.")  # fmt: skip
@click.option("--out", type=_PATH, required=True, help="Folder of the index.")
def index_command(
    first: str, candidate: str | None, reference: Path | None, every_ms: float, out: Path, recordings: tuple[Path, ...],
    engine: str, workers: int | None, address: str | None, work: str | None, keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:  # fmt: skip
    """What is in RECORDINGS, as Parquet files: streams, rates, gaps, decisions, safe reasons, ages, drift of every
    channel, moments with their confidence, disagreement, and how unlike the rest they are."""
    from build_engines.fleet.gather import spool
    from build_engines.fleet.index import write_index
    from build_engines.fleet.recordings import find
    from build_engines.fleet.sight import Sight, Sighting

    bundles = _opened((first,) if candidate is None else (first, candidate), keys, allow_unsigned)
    sources = find(recordings)
    with tempfile.TemporaryDirectory(prefix="edge-runtime-index-") as folder:
        task = Sighting.of(bundles, every_ms)
        sights, left_out = spool(task, Sight, sources, _work(engine, workers, address, work), Path(folder))
        index = write_index(out, bundles, sources, left_out, sights, reference)
    console = Console()
    console.print(f"index: {out}: {len(index.places)} recordings, {len(index.left_out)} left out", highlight=False)


@fleet_command.command("query")
@click.argument("index", type=_PATH)
@click.argument("question")
def query_command(index: Path, question: str) -> None:
    """Ask INDEX in SQL: tables recordings, streams, channels, reasons, moments, features."""
    from rich.table import Table

    from build_engines.fleet.query import ask

    columns, rows = ask(index, question)
    table = Table(*columns)
    for row in rows:
        table.add_row(
            *("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    Console().print(table)


@click.command("mine")
@click.option("--index", type=_PATH, default=None, help="Of build-engines fleet index.")
@click.option("--bundle", "name", default=None, help="The bundle that the index was made with.")
@click.option("--where", default="true", help='SQL over moments and recordings joined, such as "confidence < 0.5".')
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="Moments, at most.")
@click.option("--each", type=click.IntRange(1), default=3, show_default=True, help="Moments of one recording, at most.")
@click.option(
    "--way",
    "ways",
    multiple=True,
    help="unsure, disagreeing, rare, unlike, 'unlike STAGE', drifted; repeatable.  [default: all]",
)
@click.option("--out", type=_PATH, default=None, help="Write the folder to label here.")
@click.option("--labelled", type=_PATH, default=None, help="Such a folder, labelled: make training data of it.")
@click.option("--trusted-key", "keys", type=_PATH, multiple=True, help="Public key (PEM) to trust; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Take a bundle that nobody signed.")
def mine_command(
    index: Path | None, name: str | None, where: str, count: int, each: int, ways: tuple[str, ...], out: Path | None,
    labelled: Path | None, keys: tuple[Path, ...], allow_unsigned: bool,
) -> None:  # fmt: skip
    """Pick the moments of a fleet that are worth labelling, none nearly another one; and take in their labels: a folder
    of the layout `samples` for the next build."""
    from build_engines.data.datasets import names_of
    from build_engines.fleet.index import read_index
    from build_engines.fleet.labelling import LABELS, PAGE, take_labels, write_labelling
    from build_engines.fleet.mine import WAYS, picks
    from edge_runtime.errors import ConfigError

    bundles = () if name is None else _opened((name,), keys, allow_unsigned)
    if labelled is not None:
        taken = take_labels(labelled, names_of(bundles[0].manifest.head) if bundles else ())
        click.echo(f"mine: {labelled / 'train'}: {taken} labelled moments")
        return
    if index is None or out is None or not bundles:
        raise ConfigError(
            "mine: say --index, --bundle and --out to pick moments, or --labelled to take in their labels"
        )
    found = read_index(index)
    if found.bundles[0].digest != bundles[0].digest:
        raise ConfigError(
            f"mine: the index was made with another bundle, {found.bundles[0].name} {found.bundles[0].version}"
        )
    chosen = picks(index, where, count, ways or WAYS, each)
    if not chosen:
        raise ConfigError("mine: no moment is worth it by these ways; loosen --where")
    write_labelling(out, bundles[0], chosen)
    for pick in chosen:
        click.echo(f"{pick.recording} decision {pick.seq}: {pick.why}")
    click.echo(f"mine: {len(chosen)} moments; look at {out / PAGE}, fill in {out / LABELS}, then --labelled {out}")


def _looked(
    names: tuple[str, ...], condition: str, recordings: tuple[Path, ...], engine: str, workers: int | None,
    address: str | None, work: str | None, keys: tuple[Path, ...], allow_unsigned: bool, safe_rise: float = 0.0,
) -> Report:  # fmt: skip
    from build_engines.data.datasets import dataset_for
    from build_engines.fleet.gather import gather
    from build_engines.fleet.looking import Looking
    from build_engines.fleet.recordings import find
    from build_engines.fleet.report import report_of
    from build_engines.fleet.tally import Look

    bundles = _opened(names, keys, allow_unsigned)
    sources = find(recordings)
    task = Looking.of(bundles, dataset_for(bundles[0], "recordings", condition))
    found = gather(task, Look, sources, _work(engine, workers, address, work))
    return report_of(bundles, sources, found.partials, found.left_out, safe_rise=safe_rise)


def _names(found: Report) -> str:
    return " and ".join(f"{one.bundle.name} {one.bundle.version}" for one in found.standings)


def _write(found: Report, folder: Path | None, name: str, title: str) -> None:
    from build_engines.evaluation.run import write_files

    console = Console()
    for table in found.tables():
        console.print(table)
    for line in found.lines():
        console.print(f"- {line}", highlight=False, soft_wrap=True, markup=False)
    if folder is not None:
        write_files(folder, {f"{name}.json": found.json(), f"{name}.md": found.markdown(title).encode()})
        console.print(f"fleet: {folder / f'{name}.md'}", highlight=False, soft_wrap=True)
