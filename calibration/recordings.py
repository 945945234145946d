"""Recordings of live runs as labelled moments: the field itself as a calibration set.

Nobody has labelled them: what the runtime decided stands in for the label, so that the choice is spread over what
occurs. Never evaluate on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from calibration.moments import LabelledSet, RawMessage
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.records import Session
from edge_runtime.wire import DecisionMessage, StatusMessage


def read_recordings(files: Iterable[Path]) -> Iterator[LabelledSet]:
    """The moments of all `files`, one after the other. Raises UserError."""
    for file in files:
        yield from read_recording(file)


def read_recording(file: Path) -> Iterator[LabelledSet]:
    """Every recorded decision that the model was asked for, at its reference time, with what arrived since the one
    before.

    The condition is the file's name, without its suffix. A session (the whole file, unless the runtime was told to
    reload) is a group, because its memory is one.
    """
    waiting: list[RawMessage] = []
    sessions = 0
    for event in Recording(file).events():
        if isinstance(event, Session):
            sessions, waiting = sessions + 1, []
        elif isinstance(event, DecisionMessage):
            if not _answered(event):
                continue
            name, group = f"{file.stem}/{event.seq}", f"{file.stem} session {sessions}"
            yield LabelledSet(name, group, event.captured_ns, event.label, tuple(waiting), condition=file.stem)
            waiting = []
        elif not isinstance(event, StatusMessage):
            waiting.append(RawMessage(event.stream, event.captured_ns, event))


def _answered(decision: DecisionMessage) -> bool:
    """Whether the model answered; without a required input it was not asked, and such a moment is no input."""
    return decision.source == "model" or bool(decision.probabilities)
