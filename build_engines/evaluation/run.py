"""What `build-engines evaluate` does beyond the scores: rival, degradation, the written report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from build_engines.evaluation.degrade import Reader, degrade
from build_engines.evaluation.evaluate import Evaluation, evaluate
from build_engines.evaluation.gallery import gather, worst
from build_engines.evaluation.report import analyse, full_report, headline
from build_engines.evaluation.rival import Rivalry, against, read_predictions
from build_engines.heads.prediction import Prediction
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline

RIVAL_DRAWS = 1000


def further(
    pipeline: Pipeline,
    read: Reader,
    split: str,
    result: Evaluation,
    console: Console,
    report: Path | None,
    rival: str | None,
    wants_degradation: bool,
    keys: Sequence[Path],
    allow_unsigned: bool,
) -> None:
    """Print the headline, and write the report where one is wanted. Raises UserError."""
    other = _rival(rival, read, result, keys, allow_unsigned) if rival is not None else None
    matrix = degrade(pipeline, read, console) if wants_degradation else None
    if matrix is not None:
        console.print(matrix.table())
    findings = analyse(pipeline.bundle, result, rival=other, degradation=matrix)
    for line in headline(pipeline.bundle, result, findings):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if report is not None:
        mistakes = gather(pipeline.streams, read(), worst(result))
        write_files(report, full_report(pipeline.bundle, split, result, findings, "report", mistakes))
        console.print(f"report: {report / 'report.html'}", highlight=False, soft_wrap=True)


def _rival(name: str, read: Reader, result: Evaluation, keys: Sequence[Path], allow_unsigned: bool) -> Rivalry:
    predictions = rival_predictions(name, read, keys, allow_unsigned)
    return against(name, result.head, result.predictions, predictions, RIVAL_DRAWS, 0)


def rival_predictions(name: str, read: Reader, keys: Sequence[Path], allow_unsigned: bool) -> list[Prediction]:
    """The rival's decisions: read from a file of predictions, or made by the bundle on the same moments."""
    path = Path(name)
    if path.is_file() and path.suffix != ".tar":
        return read_predictions(path)
    pipeline = Pipeline(open_bundle(bundle_path(name), keys, allow_unsigned))
    try:
        return evaluate(pipeline, read()).predictions
    finally:
        pipeline.close()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write `files` (name to contents) into `folder`. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror}); choose another folder") from None
