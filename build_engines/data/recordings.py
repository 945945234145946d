"""The layout of labelled recordings: `DATA/<split>/*.mcap`, as `edge-runtime record` writes them, and what was right.

Beside `drive.mcap` lies `drive.csv` with the columns `start_s` and `end_s` (seconds since the recording began) or
`start_ns` and `end_ns` (wall time, as Foxglove shows it), and `label`; or the recording holds a topic `/labels` of JSON
messages `{"label": "..."}`, each of which holds until the next; an empty label ends it. Every message of one stream
within a label is a labelled moment: what the device knew then, at the rates at which things came.
"""

from __future__ import annotations

import json
import math
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader

from build_engines.data.datasets import Prepared, digest_of
from build_engines.data.paired import PairedSource, build_arrays
from build_engines.data.samples import with_mined
from build_engines.data.tokenizer import tokenizer_of
from build_engines.modalities import modality_of
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from build_engines.rows import Row
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.capture.tables import column_named, is_missing, read_rows
from edge_runtime.errors import UserError
from edge_runtime.heads.regression import VALUES
from edge_runtime.messages import Frame, Message, Sample, Utterance, Words
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.records import Session
from edge_runtime.specs import NS_PER_MS
from edge_runtime.streams import CameraStream, StreamSpec, TextStream, kind_of, max_age_ns, streams_of

MARKER = "*.mcap"
LABELS = "/labels"
"""Topic of a recording's own labels."""
_NEVER = 1 << 62
SLACK_NS = 1_000_000_000
"""Messages are kept so much longer than any stream looks back."""


@dataclass(frozen=True)
class _Label:
    """What was right from `start_ns` until before `end_ns`, in the recording's monotonic time."""

    start_ns: int
    end_ns: int
    label: str
    row: Mapping[str, Any]
    """The annotation's other columns."""


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every labelled moment of `split`, recording by recording. A session is a group, for the runtime's memory is one;
    a recording is a cluster. Raises UserError.
    """
    files = sorted((data / split).glob(MARKER))
    if not files:
        raise UserError(f"data {data}: no recordings {split}/*.mcap; check --data and the split's name")
    for file in files:
        yield from moments(file, streams, dataset)


def is_labelled(file: Path, dataset: DatasetRecipe = PLAIN_DATASET) -> bool:
    """Whether somebody has said what was right in a recording, beside it or in it. Raises UserError."""
    return file.with_suffix(".csv").is_file() or bool(_labels_of(file, Recording(file).session, dataset))


def _trigger(streams: Mapping[str, StreamSpec], dataset: DatasetRecipe) -> str:
    """The stream whose messages are the moments."""
    trigger = dataset.moments or next(iter([*streams_of(streams, CameraStream), *streams]))
    if trigger not in streams:
        raise UserError(f"dataset.moments is {trigger!r}; the streams are {', '.join(streams)}")
    return trigger


def moments(
    file: Path, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every labelled moment of one recording. Raises UserError."""
    trigger = _trigger(streams, dataset)
    recording = Recording(file)
    labels = _labels(file, recording.session, dataset)
    starts = [label.start_ns for label in labels]
    reach_ns = SLACK_NS + max(max_age_ns(spec) + (kind_of(spec).reach_ns(spec) or 0) for spec in streams.values())
    waiting: list[RawMessage] = []
    sessions, number, last_ns = 0, 0, None
    for event in recording.events():
        if isinstance(event, Session):
            sessions, waiting, last_ns = sessions + 1, [], None
        if not isinstance(event, Message) or event.stream not in streams:
            continue
        waiting.append(RawMessage(event.stream, event.captured_ns, _content(event)))
        if len(waiting) > 4096:  # nobody has labelled anything for long
            waiting = [raw for raw in waiting if raw.captured_ns >= event.captured_ns - reach_ns]
        place = bisect_right(starts, event.captured_ns) - 1
        if event.stream != trigger or place < 0 or event.captured_ns >= labels[place].end_ns:
            continue
        if last_ns is not None and event.captured_ns - last_ns < dataset.every_ms * NS_PER_MS:
            continue
        last_ns = event.captured_ns
        label = labels[place]
        yield LabelledSet(
            f"{file.stem}/{number}", f"{file.stem} session {sessions}", event.captured_ns,
            dataset.values.get(label.label, label.label) if dataset.label else VALUES, tuple(waiting),
            condition=_cell(label, dataset.condition) if dataset.condition else "", cluster=file.stem,
            values={name: _number(file, label, field) for name, field in dataset.targets.items()},
            side={head: _cell(label, field) for head, field in dataset.side_labels.items()},
        )  # fmt: skip
        number, waiting = number + 1, []
    if not number:
        raise UserError(f"recording {file}: no message of {trigger} lies within a label; check the times of the labels")


def _content(event: Message) -> Any:
    """What a sender gave."""
    if isinstance(event, Frame):
        return event.picture
    if isinstance(event, Sample):
        return dict(event.values)
    return Words(event.text, event.lang) if isinstance(event, Utterance) else event


def _labels(file: Path, session: Session, dataset: DatasetRecipe) -> list[_Label]:
    """In order of time. Raises UserError where there are none, or two at once."""
    labels = _labels_of(file, session, dataset)
    if not labels:
        table = file.with_suffix(".csv").name
        raise UserError(f"recording {file}: has no labels: neither {table} beside it nor a topic {LABELS}")
    labels.sort(key=lambda label: label.start_ns)
    for first, second in pairwise(labels):
        if second.start_ns < first.end_ns:
            raise UserError(
                f"recording {file}: the labels {first.label!r} and {second.label!r} hold at once, from "
                f"{(second.start_ns - session.captured_ns) / 1e9:.3f} s on"
            )
    return labels


def _labels_of(file: Path, session: Session, dataset: DatasetRecipe) -> list[_Label]:
    table = file.with_suffix(".csv")
    return _of_table(table, session, dataset) if table.is_file() else _of_track(file, session)


def _of_table(path: Path, session: Session, dataset: DatasetRecipe) -> list[_Label]:
    labels = []
    try:
        for one in read_rows(path):
            row = Row(path, one.line, dict(one.cells))
            if one.problem:
                raise row.wrong(one.problem)
            start_ns, end_ns = (_time(row, edge, session) for edge in ("start", "end"))
            if end_ns <= start_ns:
                raise row.wrong("it ends before it starts")
            label = str(row[dataset.label]).strip() if dataset.label else ""
            labels.append(_Label(start_ns, end_ns, label, row))
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"data {path}: {error}") from None
    return labels


def _time(row: Row, edge: str, session: Session) -> int:
    """Monotonic nanoseconds of the row's `start` or `end`."""
    for column, scale, zero_ns in (
        (f"{edge}_s", 1e9, session.captured_ns),
        (f"{edge}_ns", 1, session.captured_ns - session.wall_ns),
    ):
        if (found := column_named(column, row)) is not None and not is_missing(row[found]):
            try:
                return zero_ns + (int(str(row[found])) if scale == 1 else round(row.number(column, row[found]) * scale))
            except (ValueError, OverflowError):
                raise row.wrong(f"{column} is {row[found]!r}; whole nanoseconds are wanted") from None
    raise row.wrong(f"it has neither {edge}_s nor {edge}_ns")


def _of_track(file: Path, session: Session) -> list[_Label]:
    marks: list[tuple[int, str]] = []
    with file.open("rb") as opened:
        try:
            for _, _, message in NonSeekingReader(opened).iter_messages(topics=[LABELS]):
                document = json.loads(message.data)
                if not isinstance(document, dict) or not isinstance(document.get("label"), str):
                    raise UserError(f"recording {file}: a message of {LABELS} is no object with a text `label`")
                marks.append((message.log_time - session.wall_ns + session.captured_ns, document["label"]))
        except (McapError, struct.error, EOFError):
            pass  # cut short: what came before counts
        except ValueError:
            raise UserError(f"recording {file}: a message of {LABELS} is no JSON") from None
    marks.append((_NEVER, ""))
    return [_Label(at_ns, end_ns, label, {}) for (at_ns, label), (end_ns, _) in pairwise(marks) if label]


def _cell(label: _Label, field: str) -> str:
    column = column_named(field, label.row)
    if column is None:
        raise UserError(f"labels of a recording: they have no column {field!r}; there are {', '.join(label.row)}")
    return str(label.row[column]).strip()


def _number(file: Path, label: _Label, field: str) -> float:
    try:
        value = float(_cell(label, field))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"recording {file}: {field} of a label is {_cell(label, field)!r}; it must be a finite number")
    return value


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Rows of the training split and of the one that is evaluated. Raises UserError."""
    readers = {
        split: partial(read, data, split, recipe.streams, recipe.dataset) for split in ("train", recipe.evaluate_split)
    }
    streams = {
        name: modality_of(spec).fitted(
            spec, (raw for moment in readers["train"]() for raw in moment.messages if raw.stream == name)
        )
        for name, spec in recipe.streams.items()
    }
    tokenizer = None
    if recipe.model.text is not None:
        texts = streams_of(recipe.streams, TextStream)
        said = (raw.content for moment in readers["train"]() for raw in moment.messages if raw.stream in texts)
        tokenizer = tokenizer_of(recipe, sorted({words.text for words in said}))
    arrays = {
        split: build_arrays(recipe, streams, partial(read, data, split, streams, recipe.dataset), data, split, work)
        for split in readers
    }
    source = PairedSource(recipe, tokenizer, arrays["train"], {})
    plain = PairedSource(recipe, tokenizer, arrays[recipe.evaluate_split], {}, training=False)
    prepared = Prepared(streams, tokenizer, source, plain.in_order(), digest_of(data / "train"), folds=source.folds)
    return with_mined(recipe, prepared, work)
