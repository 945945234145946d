"""The gate's report: a table for the console, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from build_engines.gate.limits import Judged
from build_engines.heads.intervals import Interval
from build_engines.quantisation.sensitivity import Sensitivity


def show(console: Console, judged: Sequence[Judged]) -> None:
    """Print the gate's table."""
    table = Table(title="gate: model alone, 95 % bootstrap intervals")
    for name in ("plan", judged[0].figure_name, "difference to FP32", "decisions", "kB", "verdict"):
        table.add_column(name, justify="left" if name in ("plan", "verdict") else "right")
    for candidate in judged:
        verdict = "reference" if candidate.name == "fp32" else "passed" if candidate.passed else candidate.failures[0]
        table.add_row(
            candidate.name, _words(candidate.figure), _words(candidate.difference), f"{candidate.decisions_figure:.4f}",
            f"{candidate.bytes / 1024:.0f}", verdict,
        )  # fmt: skip
    console.print(table)


def _words(one: Interval) -> str:
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"


def as_markdown(judged: Sequence[Judged], notes: Sequence[str], found: Sensitivity) -> str:
    """report/gate.md."""
    figure, of_a_part = judged[0].figure_name, judged[0].part_figure
    lines = [
        "# Gate", "", "The model alone on the evaluation split, with 95 % bootstrap intervals; reduced precision is",
        "computed by ONNX Runtime with every rounding that a GPU makes.", "",
        f"| plan | precision | {figure} | difference to FP32 | decisions' {figure} | kB | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for candidate in judged:
        plan = ", ".join(f"{stage} {precision}" for stage, precision in candidate.plan.items())
        verdict = (
            "reference" if candidate.name == "fp32" else "passed" if candidate.passed else "; ".join(candidate.failures)
        )
        lines.append(
            f"| {candidate.name} | {plan} | {_words(candidate.figure)} | {_words(candidate.difference)} "
            f"| {candidate.decisions_figure:.4f} | {candidate.bytes / 1024:.0f} | {verdict} |"
        )
    lines += _agreement(judged) + _oracle(found)
    lines += [
        "",
        "## How the plan was chosen",
        "",
        *(f"- {note}" for note in notes),
        "",
        f"## Per class ({of_a_part})",
        "",
    ]
    lines += [f"| label | {' | '.join(candidate.name for candidate in judged)} |", "| --- |" + " ---: |" * len(judged)]
    for label in judged[0].parts:
        cells = " | ".join(
            f"{_words(candidate.parts[label])}" if label in candidate.parts else "" for candidate in judged
        )
        lines.append(f"| {label} | {cells} |")
    lines += [
        "", "## Sensitivity", "", f"One part at a time in another precision, over {found.moments} moments.", "",
        f"| stage | part | precision | {figure} | loss | logits off by | kB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in found.rows:
        lines.append(
            f"| {row.stage} | {row.block} | {row.precision} | {row.figure:.4f} | {row.loss:+.4f} "
            f"| {row.logits_error:.2%} | {row.bytes / 1024:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _agreement(judged: Sequence[Judged]) -> list[str]:
    """How near each GPU came to ONNX Runtime; empty where none was there."""
    lines: list[str] = []
    for candidate in judged:
        if candidate.agreement:
            lines += [
                "",
                f"## Agreement of {candidate.backend} with ONNX Runtime",
                "",
                "Largest difference of any value.",
                "",
            ]
            lines += ["| stage | absolute | relative to the largest |", "| --- | ---: | ---: |"]
            lines += [f"| {name} | {at.absolute:.3g} | {at.relative:.3%} |" for name, at in candidate.agreement.items()]
    return lines


def _oracle(found: Sensitivity) -> list[str]:
    """What was proven of the INT8 that ONNX Runtime computes here."""
    if not found.oracle:
        return []
    lines = ["", "## INT8 oracle", ""]
    for stage, proof in found.oracle.items():
        lines.append(
            f"- {stage}: oracle: {proof.sites} sites exact within {proof.worst:.1e} over {proof.samples} samples "
            f"(worst: {proof.node})"
        )
    return lines


def plot(judged: Sequence[Judged], found: Sensitivity) -> bytes:
    """PNG: the figure with intervals against size, and the blocks by what they cost."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for candidate in judged:
        value = candidate.figure
        below, above = max(0.0, value.value - value.low), max(0.0, value.high - value.value)
        left.errorbar(
            candidate.bytes / 1024, value.value, yerr=[[below], [above]], fmt="o", capsize=4, label=candidate.name
        )
    left.set(xlabel="graphs, kB", ylabel=f"{judged[0].figure_name} (95 % interval)", title="What each plan keeps")
    left.legend()
    rows = [row for row in found.rows if row.stage != "(all stages)"]
    names = [f"{row.stage} {row.block} {row.precision}" for row in rows]
    right.barh(range(len(rows)), [100 * row.logits_error for row in rows], color="#0072b2")
    right.set_yticks(range(len(rows)), names, fontsize=6)
    right.invert_yaxis()
    right.set(xlabel="logits off by, %", title="What each part costs")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
