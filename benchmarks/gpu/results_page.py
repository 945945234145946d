"""The parts' findings as one JSON file, one Markdown page and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import write_plot


def write(
    out: Path, about: Mapping[str, Any], titles: Mapping[str, str], ended: Mapping[str, Mapping[str, Any]]
) -> None:
    """`gpu.json`, `gpu.md` and pictures in `out`, from what the parts left there. `ended`: how each part ended."""
    parts = {name: {**how, **_found(out, name)} for name, how in ended.items()}
    (out / "gpu.json").write_text(json.dumps({**about, "parts": parts}, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text("\n".join(_page(out, about, titles, parts)) + "\n", encoding="utf-8")


def failures(out: Path, ended: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What had to hold and did not, and parts that did not end well."""
    lines = []
    for name, how in ended.items():
        if how["how"] != "done":
            lines.append(f"{name}: {how['how']}: {how['last']}")
        checks = _found(out, name).get("checks", [])
        lines += [f"{name}: {check['name']}: {check['detail']}" for check in checks if not check["holds"]]
    return lines


def _found(out: Path, name: str) -> dict[str, Any]:
    path = out / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _page(
    out: Path, about: Mapping[str, Any], titles: Mapping[str, str], parts: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    machine, gpu = about["machine"], about["gpu"]
    yield "# On the GPU"
    yield ""
    if isinstance(gpu, str):
        yield f"No CUDA GPU: {gpu}"
    else:
        driver = f"{gpu['driver'] // 1000}.{gpu['driver'] % 1000 // 10}"
        size = f"{gpu['total_bytes'] / 2**30:.0f} GiB"
        yield f"{gpu['name']}, compute {gpu['compute']}, {size}, driver for CUDA {driver}."
    yield f"{machine['time']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}."
    yield ""
    yield "| part | how it ended | s | holds | fails | could not be found out |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, part in parts.items():
        checks = part.get("checks", [])
        holds = sum(check["holds"] for check in checks)
        missing = "; ".join(_cell(reason) for reason in part.get("missing", [])) or "-"
        yield f"| {titles[name]} | {part['how']} | {part['seconds']} | {holds} | {len(checks) - holds} | {missing} |"
    failed = failures(out, parts)
    if failed:
        yield ""
        yield "What does not hold:"
        yield ""
        yield from (f"- {line}" for line in failed)
    for name, part in parts.items():
        yield ""
        yield f"## {titles[name]}"
        for title, figure in part.get("figures", {}).items():
            yield from _figure(title, figure)
        checks = [check for check in part.get("checks", []) if check["holds"]]
        if checks:
            yield ""
            yield "<details><summary>What holds</summary>"
            yield ""
            yield from (f"- {check['name']}{': ' + check['detail'] if check['detail'] else ''}" for check in checks)
            yield ""
            yield "</details>"
        picture = _picture(out, name, part.get("figures", {}))
        if picture:
            yield ""
            yield f"![{titles[name]}]({picture})"


def _figure(title: str, figure: Any) -> Iterator[str]:
    yield ""
    name, _, columns = title.partition(" [")
    heads = [column.strip() for column in columns.rstrip("]").split(",")] if columns else []
    if isinstance(figure, list) and figure and isinstance(figure[0], list):
        yield from _rows(name, heads or [""] * len(figure[0]), figure)
    elif isinstance(figure, list) and figure and isinstance(figure[0], dict):
        yield from _rows(name, list(figure[0]), [list(row.values()) for row in figure])
    elif isinstance(figure, dict) and figure and all(isinstance(value, list) for value in figure.values()):
        yield from _rows(name, ["", *heads], [[key, *value] for key, value in figure.items()])
    else:
        text = figure if isinstance(figure, str) else json.dumps(figure, ensure_ascii=False)
        yield f"**{name}**: {text}"


def _rows(name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"**{name}**"
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value and abs(value) < 0.01 else f"{value:.2f}"
    return str("-" if value is None else value).replace("|", "/").replace("\n", " ")


def _picture(out: Path, name: str, figures: Mapping[str, Any]) -> str:
    """Draw what people would rather look at; the file's name, or nothing."""
    if name == "times":
        bars = {
            title.partition(",")[0] + "," + title.partition(",")[2].partition("[")[0]: figure
            for title, figure in figures.items()
            if title.startswith(("live", "back to back", "streams"))
        }
        if bars:
            write_plot(out, "times", _bars(bars))
            return "times.png"
    if name == "tensorrt":
        return next((one for one in ("tensorrt-times.png", "tensorrt-sizes.png") if (out / one).is_file()), "")
    return ""


def _bars(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """p50 as bars with p99 as a mark, one panel a figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(groups), 1, figsize=(7, 1.6 * len(groups)), squeeze=False)
    for axes, (title, rows) in zip(panels[:, 0], groups.items(), strict=True):
        names = list(rows)
        axes.barh(names, [rows[name][0] for name in names], color="tab:blue", label="p50")
        axes.plot([rows[name][1] for name in names], names, "k|", markersize=10, label="p99")
        axes.invert_yaxis()
        axes.set_title(title.strip(), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    figure.tight_layout()
    return figure
