"""The worst mistakes to look at: what a moment showed, said and measured, what was right and what was answered."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.evaluation import figures
from build_engines.evaluation.evaluate import Evaluation
from build_engines.evaluation.page import Exhibit, Section
from build_engines.heads.prediction import Prediction
from calibration.moments import LabelledSet
from edge_runtime.admit import Refusal, decode_jpeg
from edge_runtime.kinds.audio import AudioStream
from edge_runtime.messages import Frame, Sample, Utterance, Words
from edge_runtime.specs import CameraStream, SensorStream, TextStream
from edge_runtime.streams import StreamSpec

MOST = 24
"""Mistakes that are shown."""
SIDE = 200
"""Pixels of a picture's longer side."""
ACROSS = 4
READINGS = 4
"""Of the channels, as many are named as fit."""
LETTERS, WIDTH = 84, 42
"""Of a line on the sheet, at most and before it is wrapped."""
FILE = "mistakes.png"
NO_FONT = "Last Resort High-Efficiency"
"""Comes with matplotlib, and draws a box for every letter."""


@dataclass(frozen=True)
class Mistake:
    """One moment that was answered wrongly."""

    prediction: Prediction
    pictures: tuple[NDArray[np.uint8], ...]
    """BGR, of each camera that had one."""
    said: str
    measured: str

    @property
    def lines(self) -> tuple[str, ...]:
        """What is written beside the pictures."""
        made = self.prediction
        right = " ".join(made.truth_tags) or made.truth
        answer = " ".join(made.tags) if made.truth_tags else made.label
        if made.truth_values:
            right, answer = (
                ", ".join(f"{name} {value:g}" for name, value in values.items())
                for values in (made.truth_values, made.values)
            )
        lines = (f"right: {right}", f"answered: {answer} ({made.confidence:.2f})")
        return (*lines, *([f"said: {self.said}"] if self.said else []), *([self.measured] if self.measured else []))


def worst(result: Evaluation, most: int = MOST) -> list[Prediction]:
    """The model's wrong decisions that it was surest of, the surest first."""
    wrong = [
        prediction
        for prediction in result.predictions
        if prediction.source == "model" and not result.build.is_right(result.head, prediction)
    ]
    return sorted(wrong, key=lambda prediction: (-prediction.confidence, prediction.id))[:most]


def gather(
    streams: Mapping[str, StreamSpec], moments: Iterable[LabelledSet], wrong: Iterable[Prediction]
) -> list[Mistake]:
    """What was known at the moments of `wrong`, in their order: the last that each stream gave in its group."""
    wanted = {prediction.id: prediction for prediction in wrong}
    found: dict[str, Mistake] = {}
    group, newest = "", dict[str, Any]()
    for moment in moments:
        if len(found) == len(wanted):
            break
        if moment.group != group:
            group, newest = moment.group, {}
        newest |= {raw.stream: raw for raw in moment.messages if not isinstance(streams.get(raw.stream), SensorStream)}
        for raw in moment.messages:
            if isinstance(streams.get(raw.stream), SensorStream):
                newest.setdefault(raw.stream, {}).update(_readings(raw.content))
        if moment.id in wanted:
            found[moment.id] = _mistake(wanted[moment.id], streams, newest)
    return [found[name] for name in wanted if name in found]


def _mistake(prediction: Prediction, streams: Mapping[str, StreamSpec], newest: Mapping[str, Any]) -> Mistake:
    pictures, said, measured = [], [], []
    for name, spec in streams.items():
        if name not in newest:
            continue
        if isinstance(spec, CameraStream):
            picture = _picture(newest[name].content)
            pictures += [] if picture is None else [picture]
        elif isinstance(spec, TextStream):
            content = newest[name].content
            said.append(content.text if isinstance(content, Words | Utterance) else str(content))
        elif isinstance(spec, SensorStream):
            measured += [f"{channel} {value:g}" for channel, value in newest[name].items()]
        elif isinstance(spec, AudioStream):
            measured.append(f"{name}: sound")
    more = f" ... of {len(measured)}" if len(measured) > READINGS else ""
    return Mistake(prediction, tuple(pictures), " / ".join(said), ", ".join(measured[:READINGS]) + more)


def _readings(content: Any) -> Mapping[str, float]:
    return content.values if isinstance(content, Sample) else content


def _picture(content: Any) -> NDArray[np.uint8] | None:
    whole = content.picture if isinstance(content, Frame) else content
    image = whole if isinstance(whole, np.ndarray) else decode_jpeg(whole)
    if isinstance(image, Refusal):
        return None
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST))


def section(mistakes: Sequence[Mistake]) -> list[Section]:
    """The mistakes as a part of a report; nothing where there are none."""
    if not mistakes:
        return []
    text = (
        f"The model's {len(mistakes)} wrong decisions that it was surest of, the surest first. These are the data's "
        "own pictures and words: mind its licence before the report goes further."
    )
    lacking = sorted(letters_without_font(mistakes))
    note = (f"No font here draws {''.join(lacking[:20])} in {FILE}; the page shows them.",) if lacking else ()
    exhibits = tuple(Exhibit(one.prediction.id, tuple(map(_uri, one.pictures)), one.lines) for one in mistakes)
    return [Section("The worst mistakes", (text, *note), None, FILE, "The same as one picture", exhibits=exhibits)]


def _uri(picture: NDArray[np.uint8]) -> str:
    data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def sheet(mistakes: Sequence[Mistake]) -> bytes:
    """A PNG with all of them, letters in whatever fonts there are."""
    rows = -(-len(mistakes) // ACROSS)
    figure = figures.new_figure(3.2 * ACROSS, 3.1 * rows)
    fonts = _fonts(letters(mistakes))
    axes = np.atleast_1d(figure.subplots(rows, ACROSS)).ravel()
    for place in axes:
        place.axis("off")
    for place, one in zip(axes, mistakes, strict=False):
        if one.pictures:
            place.imshow(_beside(one.pictures))
        words = "\n".join(figures.plain(_short(line)) for line in (one.prediction.id, *one.lines))
        place.set_title(words, fontsize=7.5, loc="left", family=fonts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters without a font: the report says which
        return figures.png(figure, palette=False)


def _beside(pictures: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(one, ((0, height - one.shape[0]), (0, 4), (0, 0)), constant_values=255) for one in pictures]
    return np.asarray(np.concatenate(padded, axis=1)[:, :, ::-1])


def _short(line: str) -> str:
    """Cut off, and in lines that fit: letters of Chinese are twice as wide, and part anywhere."""
    cut = line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"
    lines, width = [""], 0
    for part in re.findall(r"[⺀-￿]|[^\s⺀-￿]+\s*|\s+", cut):
        size = sum(2 if char > "⺀" else 1 for char in part)
        if width and width + size > WIDTH:
            lines, width = [*lines, "  "], 2
        lines[-1], width = lines[-1] + part, width + size
    return "\n".join(lines)


def letters(mistakes: Iterable[Mistake]) -> set[str]:
    """All characters that are written on the sheet."""
    return {char for one in mistakes for line in (one.prediction.id, *one.lines) for char in line if char.isprintable()}


def letters_without_font(mistakes: Iterable[Mistake]) -> set[str]:
    """Those that no font of this machine draws."""
    left = letters(mistakes)
    for family in _fonts(left):
        left -= _drawn(family, left)
    return left


def _fonts(wanted: set[str]) -> list[str]:
    """Families that together draw as many of `wanted` as can be: matplotlib's own, and what this machine has for the
    rest."""
    from matplotlib import font_manager

    chosen = ["DejaVu Sans"]
    left = wanted - _drawn(chosen[0], wanted)
    if not left:
        return chosen
    for entry in font_manager.fontManager.ttflist:
        if entry.name not in (*chosen, NO_FONT) and (more := _drawn(entry.name, left)):
            chosen.append(entry.name)
            left -= more
            if not left:
                break
    return chosen


def _drawn(family: str, wanted: set[str]) -> set[str]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    file = next((entry.fname for entry in font_manager.fontManager.ttflist if entry.name == family), None)
    try:
        known = FT2Font(file).get_charmap() if file is not None else {}
    except (OSError, RuntimeError):  # it cannot be read
        return set()
    return {char for char in wanted if ord(char) in known}
