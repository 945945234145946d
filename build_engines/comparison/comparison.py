"""What a comparison came to, as a table, sentences, Markdown and a picture."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from rich.table import Table

from build_engines.comparison.contest import Duel, Row
from build_engines.comparison.front import Place
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
    figure: str = "macro-F1"
    """What answers are compared by."""
    front: tuple[Place, ...] = ()
    """What a device could run, the fastest first."""
    budget_ms: float = 0.0
    """What the recipe allows a decision to take; 0 = anything."""

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=f"{self.name} on {self.split}: {self.count} moments, 95 % bootstrap intervals")
        for column in ("answers by", self.figure, "accuracy", "ms", "note"):
            table.add_column(column)
        for before, row in zip((None, *self.rows), self.rows, strict=False):
            if before is not None and before.kind != row.kind:
                table.add_section()
            table.add_row(row.name, words(row.figure), words(row.accuracy), _ms(row), row.note)
        return table

    def lines(self) -> list[str]:
        """The result in sentences."""
        places = (f"{place.name}, {place.ms:.2f} ms: {self._stands(place)}" for place in self.front)
        return [self.verdict, *(duel.words for duel in self.duels), *places]

    def _stands(self, place: Place) -> str:
        beyond = self.budget_ms and place.ms > self.budget_ms
        return place.words + (f"; beyond budget.ms = {self.budget_ms:g}" if beyond else "")

    def markdown(self) -> str:
        """compare.md."""
        rows = tuple((row.name, words(row.figure), words(row.accuracy), _ms(row), row.note) for row in self.rows)
        sections = [
            Section(
                "Answers", (self.how,), Cells(("answers by", self.figure, "accuracy", "ms", "note"), rows),
                "compare.png", f"{self.figure} of every row with its interval",
            )
        ]  # fmt: skip
        if self.front:
            sections.append(self._against_time())
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
        return as_markdown(f"Compared: {self.name} on {self.split}", self.lines(), sections)

    def _against_time(self) -> Section:
        text = (
            "ms: a decision for which every stage runs, the sum of the stages' median times on one thread of this "
            "machine's CPU, in FP32 (of a slim bundle: as it ships), all measured in turns. On the front stands what "
            "nothing else beats in both; there the paired difference says what the time beyond the next faster one "
            "buys. What no device runs, as the classical methods, has no time."
        )
        rows = tuple((place.name, f"{place.ms:.2f}", words(place.figure), self._stands(place)) for place in self.front)
        table = Cells(("answers by", "ms", self.figure, "place"), rows)
        title = f"{self.figure} against time"
        return Section(title, (text,), table, "front.png", f"{title}, a point for each")

    def picture(self) -> bytes:
        """compare.png."""
        return figures.dots([(row.name, row.figure) for row in self.rows], f"{self.figure} with 95 % interval")

    def files(self) -> dict[str, bytes]:
        """File name to contents."""
        files = {
            "compare.json": msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n",
            "compare.md": self.markdown().encode(),
            "compare.png": self.picture(),
        }
        if self.front:
            points = [(place.name, place.ms, place.figure, not place.behind) for place in self.front]
            files["front.png"] = figures.against_time(points, self.figure, self.budget_ms)
        return files


def _ms(row: Row) -> str:
    return "" if row.ms is None else f"{row.ms:.2f}"
