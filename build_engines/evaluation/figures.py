"""The report's pictures: PNG bytes, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from build_engines.evaluation.binary import Curves
from build_engines.evaluation.confidence import Calibration, RiskCoverage
from build_engines.heads.intervals import Interval
from build_engines.heads.metrics import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7f868d"
"""Told apart by colour-blind readers too (Okabe and Ito 2008)."""
DPI = 100


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches with a canvas of its own: no global state, any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = DPI, palette: bool = True) -> bytes:
    """The figure as PNG of `dpi` pixels an inch, in 128 colours or (`palette` off) in all."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    if not palette:
        return buffer.getvalue()
    # A palette says as much as full colour and takes a third of the bytes: bundles carry these pictures.
    Image.open(buffer).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()


def plain(label: str) -> str:
    """A label as text: a dollar sign starts no formula."""
    return label.replace("$", r"\$")


def confusion(scores: Scores) -> bytes:
    """Rows: truth, shares of the row by colour; the counts are written in."""
    table = np.array(scores.confusion, float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    names = [plain(name) for name in scores.confusion_labels]
    size = max(4.5, 1.8 + 0.42 * len(names))
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for (row, column), count in np.ndenumerate(table):
        if count:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="answer", ylabel="truth", title="Confusion: share of each true label")
    figure.colorbar(picture, ax=axes, shrink=0.7)
    return png(figure)


def part_intervals(
    parts: Mapping[str, Interval], support: Mapping[str, int], figure: str, macro: Interval | None
) -> bytes:
    """Each label's (or value's) `figure` with its interval, the lowest on top. `macro`: their mean."""
    order = sorted(parts, key=lambda name: parts[name].value)
    rows = [(f"{plain(name)} ({support.get(name, 0)})", parts[name]) for name in order]
    return dots(rows, f"{figure} with 95 % interval (support)", macro)


def dots(rows: Sequence[tuple[str, Interval]], label: str, line: Interval | None = None, zero: bool = False) -> bytes:
    """One row per name: a point and its interval. `line`: a figure to compare with; `zero`: mark 0."""
    figure = new_figure(7.2, 1.1 + 0.29 * len(rows))
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows):
        below, above = max(0.0, row.value - row.low), max(0.0, row.high - row.value)
        axes.errorbar(row.value, place, xerr=[[below], [above]], fmt="o", color=BLUE, capsize=3, markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e3e6ea")
    axes.set_axisbelow(True)
    if line is not None:
        axes.axvspan(line.low, line.high, color=ORANGE, alpha=0.15, lw=0)
        axes.axvline(line.value, color=ORANGE, lw=1, label=f"macro {line.value:.3f}")
        axes.legend(loc="lower left", fontsize=8)
    if zero:
        axes.axvline(0.0, color=GREY, lw=1)
    axes.set(xlabel=label)
    return png(figure)


def against_time(points: Sequence[tuple[str, float, Interval, bool]], figure: str, limit_ms: float = 0.0) -> bytes:
    """`figure` with its interval against milliseconds, a point per name; those on the front are joined and dark.
    `limit_ms`: where a line is drawn, unless 0."""
    drawn = new_figure(7.2, 4.6)
    axes = drawn.subplots()
    for name, ms, value, on_front in points:
        colour = BLUE if on_front else GREY
        spread = [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]
        axes.errorbar(ms, value.value, yerr=spread, fmt="o", color=colour, capsize=3, markersize=5)
        axes.annotate(plain(name), (ms, value.value), (5, 5), textcoords="offset points", fontsize=8, color=colour)
    front = sorted((ms, value.value) for _, ms, value, on_front in points if on_front)
    axes.step([ms for ms, _ in front], [value for _, value in front], where="post", color=BLUE, lw=1)
    if limit_ms:
        axes.axvline(limit_ms, color=ORANGE, lw=1, label=f"budget.ms {limit_ms:g}")
        axes.legend(loc="lower right", fontsize=8)
    axes.set_xscale("log")
    axes.grid(color="#e3e6ea")
    axes.set_axisbelow(True)
    axes.set(xlabel="ms a decision, every stage, FP32 on one thread of this machine", ylabel=f"{figure}, 95 % interval")
    return png(drawn)


def reliability(after: Calibration, before: Calibration | None) -> bytes:
    """Accuracy against confidence, and how many answers there were."""
    figure = new_figure(5.6, 4.8)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    drawn = [("shipped temperature", after, BLUE, "o-")]
    if before is not None:
        drawn.insert(0, ("temperature 1", before, ORANGE, "s:"))
    for name, calibration, colour, style in drawn:
        x, y = [item.confidence for item in calibration.bins], [item.accuracy for item in calibration.bins]
        axes.plot(
            x,
            y,
            style,
            color=colour,
            markersize=5,
            label=f"{name}: ECE {calibration.ece:.3f}, Brier {calibration.brier:.3f}",
        )
    axes.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1), title="Can the confidence be believed?")
    axes.legend(fontsize=8, loc="upper left")
    below.bar([item.confidence for item in after.bins], [item.count for item in after.bins], width=0.04, color=BLUE)
    below.set(xlabel="confidence", ylabel="answers")
    return png(figure)


def risk_coverage(
    lines: Mapping[str, RiskCoverage],
    point: tuple[float, float] | None = None,
    degraded: Sequence[tuple[str, float, float]] = (),
) -> bytes:
    """The share of wrong answers against the share answered; `point`: where the policy stands; `degraded`: where it
    stands when inputs go bad, by kind."""
    figure = new_figure(5.8, 4.2)
    axes = figure.subplots()
    for name, line in lines.items():
        axes.step(line.coverage, line.risk, where="pre", lw=1.6, label=f"{plain(name)} (area {line.area:.3f})")
    for index, kind in enumerate(dict.fromkeys(name for name, _, _ in degraded)):
        places = [(x, y) for name, x, y in degraded if name == kind]
        xs, ys = [x for x, _ in places], [y for _, y in places]
        axes.scatter(xs, ys, s=22, marker="s^v"[index % 3], color=f"C{index + 1}", label=kind)
    if point is not None:
        axes.plot(*point, "o", color="black", label=f"the policy: {point[0]:.1%} answered, {point[1]:.1%} of it wrong")
    axes.set(xlabel="share answered by the model (coverage)", ylabel="share of that wrong (risk)", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    axes.set_title("Risk when only the most confident are answered")
    axes.grid(color="#e3e6ea")
    axes.legend(fontsize=8, loc="upper left")
    return png(figure)


def curves(binary: Sequence[Curves]) -> bytes:
    """ROC and precision against recall, the operating point marked."""
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    for index, curve in enumerate(binary):
        colour = f"C{index % 10}"
        left.plot(curve.roc_x, curve.roc_y, color=colour, label=f"{plain(curve.label)}: area {curve.auc:.3f}")
        right.plot(
            curve.recall, curve.precision, color=colour, label=f"{plain(curve.label)}: AP {curve.average_precision:.3f}"
        )
        point = curve.point
        left.plot(point.false_positive_rate, point.recall, "o", color=colour)
        right.plot(point.recall, point.precision, "o", color=colour)
        right.axhline(curve.prevalence, color=colour, lw=0.8, ls=":")
    left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    left.set(xlabel="false positive rate", ylabel="true positive rate (recall)", title="ROC; the dot is what ships")
    right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03), title="Precision and recall (dotted: prevalence)")
    left.legend(fontsize=8, loc="lower right")
    right.legend(fontsize=8, loc="lower left")
    return png(figure)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Any, good_is_high: Sequence[bool | None], title: str,
    breaks: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """`values` [rows, columns] in 0..1, written in (not a number: a dash); green is good, red is bad; None =
    neither, no colour. `breaks`: rows before which a line is drawn."""
    table = np.array(values, float)
    figure = new_figure(2.6 + 1.25 * len(columns), 1.3 + 0.27 * len(rows))
    axes = figure.subplots()
    shown = np.where([bool(high) for high in good_is_high], table, 1.0 - table)
    shown[:, [high is None for high in good_is_high]] = np.nan
    axes.imshow(shown, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.85)
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows], fontsize=9)
    for (row, column), value in np.ndenumerate(table):
        words = f"{value:.3f}" if np.isfinite(value) else "-"
        axes.text(column, row, words, ha="center", va="center", fontsize=8.5)
    for place in breaks:
        axes.axhline(place - 0.5, color="white", lw=3)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=11)
    return png(figure)
