"""Picked moments as a folder for whoever labels them, and what they said as training data of the layout `samples`."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from build_engines.data.samples import MARKER, fields_of
from build_engines.evaluation.page import Exhibit, Section, as_html
from build_engines.evaluation.run import write_files
from build_engines.fleet.looking import Pipelines
from build_engines.fleet.mine import Pick
from build_engines.modalities.sensors.windows import TIME
from edge_runtime.bundle import Bundle
from edge_runtime.capture.tables import read_rows
from edge_runtime.errors import UserError
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Utterance
from edge_runtime.recording.reader import Recording
from edge_runtime.replay import outcomes
from edge_runtime.specs import SensorStream
from edge_runtime.streams import StreamSpec

MOMENTS, LABELS, PAGE, FIELDS = "moments.jsonl", "labels.csv", "look.html", "dataset.toml"
COLUMNS = ("id", "decided", "confidence", "why", "label")
SIDE = 320
"""Pixels of a picture's longer side on the page."""


def write_labelling(folder: Path, bundle: Bundle, picks: Sequence[Pick]) -> None:
    """Write what each pick's moment was decided from (pictures, readings with their times, sentence), a table whose
    last column is to be filled in, and a page to look at. Raises UserError."""
    fields = fields_of(bundle.manifest.streams)
    files: dict[str, bytes] = {}
    rows, exhibits = [], []
    for pick, reference_ns, aligned in _moments(bundle, picks):
        name = f"{pick.recording}/{pick.seq}"
        row: dict[str, Any] = {
            "id": name, "recording": pick.recording, "condition": pick.condition, "decided": pick.label,
            "confidence": round(pick.confidence, 4), "why": pick.why,
        }  # fmt: skip
        shown = []
        for stream, field in fields.items():
            part = aligned.slices[stream]
            if not part.present:
                continue
            held = _held(bundle.manifest.streams[stream], part.messages, reference_ns)
            if isinstance(held, str):
                row[field] = held
                shown.append(f"said: {held}")
                continue
            suffix, data = held
            row[field] = f"moments/{name}.{field}{suffix}"
            files[row[field]] = data
        rows.append(row)
        pictures = [_thumbnail(part.newest) for part in aligned.slices.values() if isinstance(part.newest, Frame)]
        lines = (f"decided: {pick.label} ({pick.confidence:.2f})", pick.why, *shown)
        exhibits.append(Exhibit(name, tuple(pictures), lines))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "label": ""} for row in rows)
    lead = [f"{len(rows)} moments; say what was right in the last column of {LABELS}, or leave it empty"]
    page = as_html("Moments worth labelling", lead, [Section("Moments", exhibits=tuple(exhibits))], {})
    files |= {
        MOMENTS: b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows),
        LABELS: table.getvalue().encode(), PAGE: page.encode(), FIELDS: _recipe_lines(fields).encode(),
    }  # fmt: skip
    write_files(folder, files)


def take_labels(folder: Path, labels: Sequence[str] = ()) -> int:
    """Write `train/samples.jsonl` of the moments that somebody has labelled; how many there are. Raises UserError where
    there is none, or a label is none of `labels` (where these are given)."""
    said = dict(_said(folder))
    if wrong := sorted(set(said.values()) - set(labels)) if labels else []:
        raise UserError(
            f"labels {folder / LABELS}: {wrong[0]!r} is no label of the bundle; there are {', '.join(labels)}"
        )
    if not said:
        raise UserError(f"labels {folder / LABELS}: nothing is labelled yet; fill in the column label")
    try:
        rows = [json.loads(line) for line in (folder / MOMENTS).read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"labels {folder / MOMENTS}: cannot be read ({error}); build-engines mine writes it") from None
    kept = [row | {"label": said[row["id"]]} for row in rows if row["id"] in said]
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in kept)
    write_files(folder, {f"train/{MARKER}": lines})
    return len(kept)


def _recipe_lines(fields: Mapping[str, str]) -> str:
    lines = [f'"{stream}" = "{field}"' for stream, field in fields.items()]
    return "\n".join(
        ["# For a recipe that learns from these moments:", '# layout = "samples"', "[dataset]", 'group = "recording"',
         "[dataset.fields]", *lines, ""]
    )  # fmt: skip


def _said(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        for row in read_rows(folder / LABELS):
            cells = {str(name).lower(): str(value or "").strip() for name, value in row.cells.items()}
            if cells.get("label"):
                yield cells.get("id", ""), cells["label"]
    except OSError as error:
        raise UserError(f"labels {folder / LABELS}: cannot be read ({error.strerror}); check the folder") from None
    except ValueError as error:
        raise UserError(f"labels {folder / LABELS}: {error}") from None


def _moments(bundle: Bundle, picks: Sequence[Pick]) -> Iterator[tuple[Pick, int, AlignedSet]]:
    """Each pick's moment, recording by recording."""
    pipelines = Pipelines(bundle)
    ordered = sorted(picks, key=lambda pick: (pick.recording, pick.seq))
    for _, some in groupby(ordered, key=lambda pick: pick.recording):
        wanted = {pick.seq: pick for pick in some}
        recording = Recording(Path(next(iter(wanted.values())).path))
        with closing(outcomes(recording, pipelines.of, close=False)) as found:
            for live, outcome in found:
                if live.seq in wanted:
                    yield wanted.pop(live.seq), live.captured_ns, outcome.aligned
                if not wanted:
                    break
        pipelines.settle()
        if wanted:
            raise UserError(f"recording {recording.path}: has no decision {min(wanted)}; make the index again")


def _held(spec: StreamSpec, messages: Sequence[Message], reference_ns: int) -> str | tuple[str, bytes]:
    """A sentence, or a file's suffix and contents."""
    newest = messages[-1]
    if isinstance(newest, Utterance):
        return newest.text
    if isinstance(newest, Frame):
        if newest.encoded is not None:
            return ".jpg", bytes(newest.encoded)
        return ".png", cv2.imencode(".png", newest.image)[1].tobytes()
    assert isinstance(spec, SensorStream)
    return ".csv", _readings(spec, messages, reference_ns)


def _readings(spec: SensorStream, messages: Sequence[Message], reference_ns: int) -> bytes:
    """A row for each sample at its time, the last one empty: the moment."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = [channel.name for channel in spec.channels]
    writer.writerow([TIME, *names])
    for message in messages:
        assert isinstance(message, Sample)
        writer.writerow([(message.captured_ns - reference_ns) / 1e9, *(message.values.get(name, "") for name in names)])
    writer.writerow([0.0, *("" for _ in names)])
    return table.getvalue().encode()


def _thumbnail(frame: Frame) -> str:
    """A data URI."""
    image = frame.image
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return f"data:image/jpeg;base64,{base64.b64encode(cv2.imencode('.jpg', small)[1].tobytes()).decode()}"
