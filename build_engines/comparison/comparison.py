"""What a comparison came to, as a table, sentences, Markdown and a picture."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from rich.table import Table

from build_engines.comparison.contest import Duel, Row
from build_engines.comparison.frozen import GridPoint
from build_engines.evaluation import figures
from build_engines.evaluation.page import Cells, Section, as_markdown
from build_engines.evaluation.report import words


class Comparison(Struct, frozen=True):
    """What came out."""

    name: str
    split: str
    count: int
    """Moments judged."""
    how: str
    """How the neural rows were trained, in words."""
    rows: tuple[Row, ...]
    duels: tuple[Duel, ...]
    verdict: str
    grid: tuple[GridPoint, ...] = ()
    """Weights tried by cross-validation, best first."""

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=f"{self.name} on {self.split}: {self.count} moments, 95 % bootstrap intervals")
        for column in ("answers by", "macro-F1", "accuracy", "note"):
            table.add_column(column)
        for before, row in zip((None, *self.rows), self.rows, strict=False):
            if before is not None and before.kind != row.kind:
                table.add_section()
            table.add_row(row.name, words(row.f1_macro), words(row.accuracy), row.note)
        return table

    def lines(self) -> list[str]:
        """The result in sentences."""
        return [self.verdict, *(duel.words for duel in self.duels)]

    def markdown(self) -> str:
        """compare.md."""
        rows = tuple((row.name, words(row.f1_macro), words(row.accuracy), row.note) for row in self.rows)
        sections = [
            Section(
                "Answers", (self.how,), Cells(("answers by", "macro-F1", "accuracy", "note"), rows), "compare.png",
                "Macro-F1 of every row with its interval",
            )
        ]  # fmt: skip
        if self.grid:
            names = tuple(self.grid[0].weights)
            text = (
                "fused = sum of weight x modality, the weights from a grid on the simplex, each judged by k-fold "
                "cross-validation on the training split with frozen encoders (which have seen that split, so that "
                "modalities which they know by heart look better than they are)."
            )
            tried = tuple(
                ("chosen" if index == 0 else "", *(f"{point.weights[name]:g}" for name in names),
                 f"{point.mean:.4f}", f"{point.deviation:.4f}")
                for index, point in enumerate(self.grid)
            )  # fmt: skip
            columns = ("", *names, "mean macro-F1 of the folds", "deviation")
            sections.append(Section("Weights by cross-validation", (text,), Cells(columns, tried)))
        return as_markdown(f"Does fusion help? {self.name} on {self.split}", self.lines(), sections)

    def picture(self) -> bytes:
        """compare.png."""
        return figures.dots([(row.name, row.f1_macro) for row in self.rows], "macro-F1 with 95 % interval")

    def files(self) -> dict[str, bytes]:
        """File name to contents."""
        return {
            "compare.json": msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n",
            "compare.md": self.markdown().encode(),
            "compare.png": self.picture(),
        }
