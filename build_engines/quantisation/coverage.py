"""What the calibration set covers: each label, condition and stream, as Markdown and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from build_engines.evaluation.figures import new_figure, png
from calibration.select import Signature

Part = Sequence[Signature]


@dataclass(frozen=True)
class Coverage:
    """The moments, from all that were there to those that were chosen, and those that are evaluated."""

    everything: Part
    distinct: Part
    """Without equal and nearly equal ones, and without those that are also evaluated."""
    chosen: Part
    evaluation: Part
    shared: int
    """Moments that were left out because they are also evaluated."""
    near: int
    """Chosen moments that are nearly ones that are evaluated."""
    streams: tuple[str, ...]
    """The model's."""

    @property
    def parts(self) -> dict[str, Part]:
        return {"all": self.everything, "distinct": self.distinct, "chosen": self.chosen, "evaluated": self.evaluation}

    @property
    def labels(self) -> list[str]:
        return sorted({moment.label for part in self.parts.values() for moment in part})


def _label(moment: Signature) -> str:
    return moment.label


def _condition(moment: Signature) -> str:
    return moment.condition or "(none given)"


def as_markdown(covered: Coverage) -> str:
    """report/calibration.md."""
    parts = covered.parts
    lines = [
        "# Calibration set", "",
        f"{len(covered.chosen)} moments of {len(covered.everything)} ({len(covered.distinct)} without equal and nearly "
        f"equal ones, and without {covered.shared} that are also evaluated). None of them is evaluated; {covered.near} "
        "are nearly like one that is.", "",
    ]  # fmt: skip
    keys: dict[str, Callable[[Signature], str]] = {"label": _label, "condition": _condition}
    for title, key in keys.items():
        counts = [Counter(key(moment) for moment in part) for part in parts.values()]
        lines += [f"| {title} | {' | '.join(parts)} |", "| --- |" + " ---: |" * len(parts)]
        lines += [
            f"| {name} | {' | '.join(str(count[name]) for count in counts)} |" for name in sorted(set().union(*counts))
        ]
        lines.append("")
    lines += ["Moments that have a stream, and those that lack it:", ""]
    lines += [f"| stream | {' | '.join(parts)} |", "| --- |" + " ---: |" * len(parts)]
    for stream in covered.streams:
        lines.append(f"| {stream} | {' | '.join(_has(part, stream) for part in parts.values())} |")
    lines += ["", "The same of the chosen ones, by label:", ""]
    lines += [f"| label | {' | '.join(covered.streams)} |", "| --- |" + " ---: |" * len(covered.streams)]
    for label in covered.labels:
        some = [moment for moment in covered.chosen if moment.label == label]
        lines.append(f"| {label} | {' | '.join(_has(some, stream) for stream in covered.streams)} |")
    return "\n".join(lines) + "\n"


def _has(part: Part, stream: str) -> str:
    count = sum(stream in moment.present for moment in part)
    return f"{count} / {len(part) - count}"


def plot(covered: Coverage) -> bytes:
    """PNG: shares of labels and conditions, and how often each label's chosen moments have each stream."""
    labels = covered.labels
    conditions = sorted({_condition(signature) for part in covered.parts.values() for signature in part})
    height = 2.0 + 0.32 * max(len(labels), len(conditions), 6)
    figure = new_figure(14, height)
    bars: list[tuple[str, list[str], Callable[[Signature], str]]] = [("label", labels, _label)]
    if len(conditions) > 1:
        bars.append(("condition", conditions, _condition))
    *plots, right = figure.subplots(1, len(bars) + 1, width_ratios=(3, 2, 2.5) if len(bars) > 1 else (3, 2))
    for axes, (title, names, key) in zip(plots, bars, strict=True):
        shown = {name: part for name, part in covered.parts.items() if name != "distinct"}
        for index, (name, part) in enumerate(shown.items()):
            counts = Counter(key(moment) for moment in part)
            shares = [100 * counts[label_name] / max(1, len(part)) for label_name in names]
            places = np.arange(len(names)) + 0.27 * (index - 1)
            axes.barh(places, shares, height=0.25, label=f"{name} ({len(part)})")
        axes.set(title=f"Share of each {title}", xlabel="%")
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
    plots[0].legend(loc="lower right")
    table = np.full((len(labels), len(covered.streams)), np.nan)
    for row, label in enumerate(labels):
        some = [moment for moment in covered.chosen if moment.label == label]
        for column, stream in enumerate(covered.streams):
            count = sum(stream in moment.present for moment in some)
            if some:
                table[row, column] = count / len(some)
            right.text(column, row, f"{count} / {len(some) - count}", ha="center", va="center", fontsize=8)
    right.imshow(table, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.6)
    right.set_xticks(np.arange(len(covered.streams)), covered.streams)
    right.set_yticks(np.arange(len(labels)), labels)
    right.set_title("Chosen moments with / without each stream")
    return png(figure, dpi=110, palette=False)
