"""`edge-runtime replay`: decide a recording again, and compare."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.pipeline import Pipeline
    from edge_runtime.recording.reader import Recording
    from edge_runtime.recording.records import Session
    from edge_runtime.replay import Answer

BACKENDS = ("recorded", "auto", "onnxruntime", "tensorrt")
ROWS = 12


@dataclass
class Comparison:
    """What was decided live against what was decided now."""

    tolerance: float = 0.0
    """See `Answer.differences`."""
    decisions: int = 0
    changed: int = 0
    """Decisions of which anything differs."""
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Recorded and replayed label to how often they met."""
    first: str = ""
    """The first difference, in words."""

    def add(self, recorded: Answer, replayed: Answer) -> None:
        self.decisions += 1
        self.labels[recorded.label, replayed.label] += 1
        if different := recorded.differences(replayed, self.tolerance):
            self.changed += 1
            if not self.first:
                name = different[0]
                old, new = getattr(recorded, name), getattr(replayed, name)
                self.first = f"decision {recorded.seq}: {name} was {old!r}, is {new!r}"


@click.command()
@click.argument("file", metavar="FILE.mcap", type=click.Path(path_type=Path))
@click.option("--bundle", "bundle_name", help="Decide with this bundle.  [default: the one that was recorded]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the decisions here, one per line.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Pace.  [default: as fast as it goes]")
@click.option("--check", is_flag=True, help="Exit with code 3 unless every decision is the recorded one.")
@click.option("--backend", type=click.Choice(BACKENDS), default="recorded", show_default=True, help="Engines to use.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where built engines are kept.  [default: this user's]")
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Trusted public key; repeatable.")
@click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature.")
def replay(
    file: Path,
    bundle_name: str | None,
    out: Path | None,
    speed: float | None,
    check: bool,
    backend: str,
    cache: Path | None,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Decide FILE.mcap again: the same messages in the same order, through the device's own code.

    With the bundle and the engines of the recording the decisions are the same, bit for bit; with others, the table
    says what changed. On another kind of machine than the recorded one (other instructions, libraries or GPU) labels
    and words must be the same, and numbers within 0.03. After a reload to another bundle, that one decides. Decisions
    made while an engine failed are as they were recorded and may differ.
    """
    import msgspec
    from rich.console import Console

    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.errors import GateRefused, UserError
    from edge_runtime.machine_kind import machine_kind
    from edge_runtime.pipeline import Pipeline
    from edge_runtime.recording.reader import Recording
    from edge_runtime.replay import recorded_bundle, recorded_engine, tolerance_of
    from edge_runtime.signing_keys import trusted

    recording = Recording(file)
    parts: list[tuple[Session, Bundle]] = []

    def bundle_of(session: Session) -> Bundle:
        path = recorded_bundle(session) if bundle_name is None else bundle_path(bundle_name)
        bundle = open_bundle(path, trusted(keys), allow_unsigned)
        if bundle_name is None and bundle.digest != session.bundle.digest:
            raise UserError(
                f"bundle {path}: is not the one that was recorded, {session.bundle.name} {session.bundle.version} "
                f"({session.bundle.digest[:12]}..); name the one to decide with: --bundle"
            )
        return bundle

    def open_pipeline(session: Session) -> Pipeline:
        engine = recorded_engine(session, cache)
        if backend != "recorded":
            engine = msgspec.structs.replace(engine, backend=backend)
        parts.append((session, bundle_of(session)))
        return Pipeline(parts[-1][1], engine, zones=session.zones)

    bundle_of(recording.session)  # what is wrong with it is told before --out is written
    console = Console(stderr=True)
    try:
        lines = None if out is None else out.open("wb")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); check the path") from None
    try:
        comparison = Comparison(tolerance_of(recording.session, machine_kind()))
        _replay(recording, open_pipeline, lines, speed, console, comparison)
    finally:
        if lines is not None:
            lines.close()
    _caveats(console, recording, comparison.tolerance)
    same = all(bundle.digest == session.bundle.digest for session, bundle in parts)
    _show(console, comparison, parts, same)
    if check and comparison.changed:
        other = "" if same else "; the bundle is another than the recorded one"
        if isinstance(recording.session.machine, msgspec.UnsetType):
            other += "; the recording does not say on what kind of machine it was made"
        raise GateRefused(f"{comparison.changed} of {comparison.decisions} decisions differ; {comparison.first}{other}")
    if check and not comparison.decisions:
        raise GateRefused(f"{file} holds no decision")


def _caveats(console: Any, recording: Recording, tolerance: float) -> None:
    """Why what was recorded may be less, or other, than what is decided now."""
    import msgspec

    from edge_runtime.machine_kind import machine_kind

    session = recording.session
    if recording.cut:
        console.print(
            f"[yellow]the end of {recording.path} is missing[/]; replayed up to where it was cut off", soft_wrap=True
        )
    if session.jpeg_quality is not msgspec.UNSET:
        console.print(f"[yellow]recorded with jpeg_quality = {session.jpeg_quality}[/]: decisions may differ")
    if not isinstance(session.machine, msgspec.UnsetType) and (there := session.machine.differences(machine_kind())):
        console.print(
            f"recorded on another kind of machine ({'; '.join(there)}): numbers within {tolerance:g} count as the same",
            soft_wrap=True,
            highlight=False,
        )


def _replay(
    recording: Recording,
    open_pipeline: Callable[[Session], Pipeline],
    lines: IO[bytes] | None,
    speed: float | None,
    console: Any,
    comparison: Comparison,
) -> None:
    from rich.progress import Progress

    from edge_runtime.replay import answer_line, recorded_answer, replay

    start: tuple[int, float] | None = None
    with Progress(console=console, transient=True) as progress, closing(replay(recording, open_pipeline)) as pairs:
        task = progress.add_task("replaying", total=recording.size)
        for recorded, replayed in pairs:
            if speed is not None:
                start = start or (replayed.captured_ns, time.monotonic())
                due = start[1] + (replayed.captured_ns - start[0]) / 1e9 / speed
                time.sleep(max(0.0, due - time.monotonic()))
            comparison.add(recorded_answer(recorded), replayed)
            if lines is not None:
                lines.write(answer_line(replayed))
            progress.update(task, completed=recording.position)


def _show(console: Any, comparison: Comparison, parts: list[tuple[Session, Bundle]], same: bool) -> None:
    from rich.table import Table

    used = _named(f"{bundle.manifest.name} {bundle.manifest.version}" for _, bundle in parts)
    recorded = _named(f"{session.bundle.name} {session.bundle.version}" for session, _ in parts)
    relation = "the recorded bundle" if same else f"recorded with {recorded}, another bundle"
    console.print(
        f"{comparison.decisions} decisions replayed with {used} ({relation}): "
        f"{comparison.decisions - comparison.changed} {'the same' if comparison.tolerance else 'identical'}, "
        f"{comparison.changed} changed",
        soft_wrap=True,
        highlight=False,
    )
    moved = [(pair, count) for pair, count in comparison.labels.most_common() if pair[0] != pair[1]]
    if not comparison.changed:
        return
    agreed = comparison.decisions - sum(count for _, count in moved)
    console.print(
        f"labels agree in {agreed} of {comparison.decisions} ({agreed / comparison.decisions:.1%})", highlight=False
    )
    if moved:
        table = Table(title="labels that changed", title_justify="left")
        for column in ("recorded", "replayed", "decisions"):
            table.add_column(column, justify="right" if column == "decisions" else "left")
        for (old, new), count in moved[:ROWS]:
            table.add_row(old, new, str(count))
        console.print(table)


def _named(names: Iterable[str]) -> str:
    """Bundles in the order in which they decided, one that came twice in a row once."""
    return ", then ".join(name for name, _ in groupby(names))
