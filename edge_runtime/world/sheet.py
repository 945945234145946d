"""A contact sheet: what the car saw, what it measured and heard, and what was right to do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import UserError
from edge_runtime.world import expert
from edge_runtime.world.lens import HEIGHT, WIDTH
from edge_runtime.world.sensors import MAX_RANGE_M, RANGE_CHANNELS
from edge_runtime.world.simulation import Reading, Simulation
from edge_runtime.world.view import View

Image = NDArray[np.uint8]

_STRIP = 84
_COLUMNS = 3
_EVERY_S = 0.5
DRIVES = 6
"""Drives looked through for telling moments."""
_MEANINGS = {
    "left": "turn left",
    "right": "turn right",
    "straight": "go straight",
    "onward": "follow the road",
}


def contact_sheet(seed: int, count: int = 12) -> Image:
    """`count` telling moments of drives from `seed` on: as many conditions and labels as can be had."""
    chosen: dict[tuple[str, ...], Image] = {}
    for drive in range(seed, seed + DRIVES):
        for kind, cell in _moments(drive):
            chosen.setdefault(kind, cell)
        if len(chosen) >= 3 * count:
            break
    kinds = sorted(chosen, key=lambda kind: (kind[1], kind[0], kind[2]))
    picked = [kinds[round(i)] for i in np.linspace(0, len(kinds) - 1, min(count, len(kinds)))]
    cells = [chosen[kind] for kind in picked]
    blank: Image = np.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % _COLUMNS)
    rows = [np.hstack(cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    return np.asarray(np.vstack(rows), np.uint8)


def write_sheet(seed: int, path: Path) -> None:
    """Write the sheet as a picture file. Raises UserError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), contact_sheet(seed))
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"picture {path}: cannot be written; choose a writable file that ends in .png or .jpg")


def _moments(seed: int) -> list[tuple[tuple[str, ...], Image]]:
    """(what kind of moment, its cell) along one drive, every half second."""
    simulation = Simulation(seed)
    view = View(simulation.town, seed)
    ranges: dict[str, float] = {}
    rows: list[tuple[tuple[str, ...], Image]] = []
    seen: set[tuple[str, ...]] = set()
    for _ in range(round(75 / _EVERY_S)):
        for _ in range(round(_EVERY_S * 30)):
            for item in simulation.step(1 / 30, expert.label(simulation.observe())):
                if isinstance(item, Reading) and RANGE_CHANNELS[0] in item.values:
                    ranges = item.values
        now = simulation.observe()
        near = now.to_line < expert.ZONE_M
        lead = any(gap < 20.0 for _, gap, _ in now.gaps)
        kind = (expert.label(now), now.condition, f"{now.light if near else ''} {'lead' if lead else ''}")
        if kind not in seen:
            seen.add(kind)
            rows.append((kind, _cell(view.draw(simulation), simulation, ranges)))
    return rows


def _cell(picture: Image, simulation: Simulation, ranges: dict[str, float]) -> Image:
    now = simulation.observe()
    strip: Image = np.full((_STRIP, WIDTH, 3), 24, np.uint8)
    light = now.light if now.to_line < 45.0 else "-"
    lines = (
        f"{expert.label(now)}   (without text: {expert.label_without_text(now)})",
        f"heard: {_MEANINGS.get(now.heard or '', 'nothing')}   {now.condition}   light {light}",
        f"{now.speed:.1f} m/s   line {now.to_line:.0f} m{'   in junction' if now.in_junction else ''}",
    )
    for row, line in enumerate(lines):
        cv2.putText(strip, line, (10, 24 + 26 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (235, 235, 235), 1, cv2.LINE_AA)
    for index, name in enumerate(RANGE_CHANNELS):
        metres = ranges.get(name, MAX_RANGE_M)
        height = int((_STRIP - 12) * metres / MAX_RANGE_M)
        left = 452 + index * 20
        colour = (80, 200, 80) if metres > 25 else (60, 170, 255) if metres > 10 else (60, 60, 255)
        cv2.rectangle(strip, (left, _STRIP - 6 - height), (left + 14, _STRIP - 6), colour, cv2.FILLED)
    assert picture.shape[0] == HEIGHT
    return np.asarray(np.vstack([picture, strip]), np.uint8)
