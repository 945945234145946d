"""What `build-engines fleet evaluate` and `compare` write: plain data, Markdown, a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct
from rich.table import Table

from build_engines.data.datasets import names_of
from build_engines.evaluation.page import Cells, Section, as_markdown
from build_engines.evaluation.report import words
from build_engines.fleet.cells import EVERYTHING, Cell, Gap, column, conditions, gap
from build_engines.fleet.recordings import Source
from build_engines.fleet.tally import CONFIDENCE_BINS, Counts, Look, Tally, percentile_ms, total
from build_engines.gate.limits import fallen
from build_engines.heads.intervals import Interval
from build_engines.heads.metrics import Scores
from build_engines.recipe import GateRecipe
from build_engines.recipe.gate import PLAIN_GATE
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.wire import BundleId

SURE = 0.5
"""Below it a model's decision counts as one of low confidence."""
SHOWN = 12
"""Rows of what is listed by how often it occurs."""


class Ages(Struct, frozen=True):
    """Of one stream, where it was present."""

    p50_ms: float | None
    """Upper edges of bins, four an octave."""
    p99_ms: float | None
    absent: int
    """Decisions that it was not there for."""


class Standing(Struct, frozen=True):
    """One bundle over all recordings."""

    bundle: BundleId
    decisions: int
    labels: Counts
    safe: Counts
    """Why the safe decision was made."""
    low_confidence: int
    """Of the model's decisions, those below 0.5."""
    as_live: int
    """Decisions that are as recorded, in label and source."""
    moved: Counts
    """`recorded -> decided now`."""
    ages: dict[str, Ages]
    refused: Counts
    cells: dict[str, Cell]
    """`everything`, and each condition."""
    scores: Scores | None
    """Of the decisions on labelled moments."""
    model: Scores | None
    """The same of the model's own answers."""


class Report(Struct, frozen=True):
    """What came out. It says nothing of who did the work, or when."""

    recordings: int
    cut: tuple[str, ...]
    """Recordings whose end is missing: they count up to there."""
    left_out: dict[str, str]
    """Recordings that nothing could be made of, and why."""
    unlabelled: int
    standings: tuple[Standing, ...]
    apart: Counts = {}
    """`what the first bundle decides -> what the second does`."""
    gaps: dict[str, Gap] = {}
    """The second bundle less the first."""
    failures: tuple[str, ...] = ()
    """What the second has lost beyond the limits."""

    def json(self) -> bytes:
        """The same bytes for the same recordings, bundles and settings."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"

    def lines(self) -> list[str]:
        """The result in sentences."""
        said = [f"{self.recordings} recordings, {self.unlabelled} of them unlabelled"]
        said += [f"{name}: its end is missing; it counts up to there" for name in self.cut]
        said += [f"{name}: left out: {reason}" for name, reason in self.left_out.items()]
        for one in self.standings:
            safe = sum(one.safe.values())
            said.append(
                f"{one.bundle.name} {one.bundle.version}: {one.decisions} decisions, {safe} safe, "
                f"{one.low_confidence} of low confidence, {one.as_live} as recorded"
            )
        if len(self.standings) > 1:
            said.append(f"the two decide otherwise {sum(self.apart.values())} times")
            said += self.failures or ["the second bundle has lost nothing beyond the limits"]
        return said

    def tables(self) -> list[Table]:
        """For the terminal."""
        shown = []
        for section in self.sections():
            if section.table is not None:
                table = Table(title=section.title, title_justify="left")
                for number, name in enumerate(section.table.columns):
                    table.add_column(name, justify="right" if number else "left")
                for row in section.table.rows:
                    table.add_row(*row)
                shown.append(table)
        return shown

    def markdown(self, title: str) -> str:
        return as_markdown(title, self.lines(), self.sections())

    def sections(self) -> list[Section]:
        parts = []
        columns = ("condition", "recordings", "decisions", "safe", "moments", "accuracy", "macro-F1")
        for one in self.standings:
            whose = f"{one.bundle.name} {one.bundle.version}"
            rows = tuple((name, *_row(cell)) for name, cell in one.cells.items())
            parts.append(Section(f"{whose} by condition", (_HOW,), Cells(columns, rows)))
            safe = tuple((reason, str(count)) for reason, count in _commonest(one.safe))
            if safe:
                parts.append(Section(f"{whose}: safe decisions", (), Cells(("why", "decisions"), safe)))
            ages = tuple((name, _ms(age.p50_ms), _ms(age.p99_ms), str(age.absent)) for name, age in one.ages.items())
            parts.append(Section(f"{whose}: ages of inputs", (), Cells(("stream", "p50 ms", "p99 ms", "absent"), ages)))
            moved = tuple((change, str(count)) for change, count in _commonest(one.moved))
            if moved:
                parts.append(
                    Section(f"{whose}: otherwise than recorded", (), Cells(("recorded -> now", "decisions"), moved))
                )
        if self.gaps:
            rows = tuple(
                (name, _interval(one.safe), _interval(one.accuracy), _interval(one.figure))
                for name, one in self.gaps.items()
            )
            gaps = Cells(("condition", "safe", "accuracy", "macro-F1"), rows)
            parts.append(Section("The second less the first", ("Paired by recording.",), gaps))
            changed = tuple((change, str(count)) for change, count in _commonest(self.apart))
            if changed:
                parts.append(
                    Section("Where they decide otherwise", (), Cells(("first -> second", "decisions"), changed))
                )
        return parts


_HOW = (
    "95 % bootstrap intervals over whole recordings, where there are three. Safe: share of safe decisions of all that "
    "were recorded. Accuracy and macro-F1: of the decisions on labelled moments."
)


def report_of(
    bundles: Sequence[Bundle], sources: Sequence[Source], looks: Mapping[str, Look], left_out: Mapping[str, str],
    gate: GateRecipe | None = None, safe_rise: float = 0.0,
) -> Report:  # fmt: skip
    """Reduce the partials, by recording, to the report of one bundle or two. Of two, the second must keep within the
    limits of `gate` on labelled moments, and make safe decisions at most by the share `safe_rise` more often.

    Raises UserError for two bundles that were judged at different moments.
    """
    by_id = {source.id: source for source in sources}
    looks = {name: looks[name] for name in sorted(looks)}
    whole = total(looks.values())
    names = conditions(looks, by_id)
    standings = tuple(
        _standing(bundle, tally, looks, by_id, number, names)
        for number, (bundle, tally) in enumerate(zip(bundles, whole.tallies, strict=True))
    )
    report = Report(
        len(looks), tuple(name for name, look in looks.items() if look.cut), dict(sorted(left_out.items())),
        whole.unlabelled, standings,
    )  # fmt: skip
    if len(bundles) == 1:
        return report
    gaps = {
        name or EVERYTHING: gap(
            *(column(looks, by_id, number, names_of(bundle.manifest.head), name)
              for number, bundle in enumerate(bundles))
        )
        for name in (None, *names)
    }  # fmt: skip
    _refuse_other_moments(standings)
    failures = tuple(_failures(standings, gaps, gate or PLAIN_GATE, safe_rise))
    return msgspec.structs.replace(report, apart=whole.apart, gaps=gaps, failures=failures)


def _standing(
    bundle: Bundle, tally: Tally, looks: Mapping[str, Look], sources: Mapping[str, Source], number: int,
    names: Sequence[str],
) -> Standing:  # fmt: skip
    manifest = bundle.manifest
    labels = names_of(manifest.head)
    columns = {name: column(looks, sources, number, labels, name) for name in (None, *names)}
    ages = {
        name: Ages(
            percentile_ms(tally.ages.get(name, ()), 0.5), percentile_ms(tally.ages.get(name, ()), 0.99),
            tally.absent.get(name, 0),
        )
        for name in manifest.streams
    }  # fmt: skip
    return Standing(
        BundleId(manifest.name, manifest.version, bundle.digest), tally.decisions, tally.labels, tally.safe,
        sum(tally.confidence[: int(SURE * CONFIDENCE_BINS)]), tally.as_live,
        tally.moved, ages, tally.refused, {name or EVERYTHING: one.cell() for name, one in columns.items()},
        columns[None].scores, column(looks, sources, number, labels, model=True).scores,
    )  # fmt: skip


def _refuse_other_moments(standings: Sequence[Standing]) -> None:
    counts = [None if one.scores is None else one.scores.count for one in standings]
    if len(set(counts)) > 1:
        raise UserError(
            f"compare: the bundles were judged at {' and '.join(map(str, counts))} moments: their triggers differ; "
            "compare bundles of the same streams"
        )


def _failures(standings: Sequence[Standing], gaps: Mapping[str, Gap], gate: GateRecipe, safe_rise: float) -> list[str]:
    before, after = standings
    said = []
    for what, one, other in (("model", before.model, after.model), ("decisions", before.scores, after.scores)):
        if one is not None and other is not None:
            said += fallen(what, one, other, gate)
    for name, apart in gaps.items():
        least = apart.safe.low if apart.safe is not None else after.cells[name].safe - before.cells[name].safe
        if least > safe_rise:
            said.append(
                f"{name}: safe decisions {before.cells[name].safe:.4f} -> {after.cells[name].safe:.4f}, more than "
                f"{safe_rise:g} up"
            )
    return said


def _row(cell: Cell) -> tuple[str, ...]:
    figures = [
        "" if value is None else words(found) if found is not None else f"{value:.3f}"
        for value, found in ((cell.accuracy, cell.accuracy_interval), (cell.figure, cell.figure_interval))
    ]
    safe = f"{cell.safe:.3f}" if cell.safe_interval is None else words(cell.safe_interval)
    return str(cell.recordings), str(cell.decisions), safe, str(cell.moments), *figures


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _commonest(counts: Counts) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
