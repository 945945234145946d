"""What the page is told, and that it costs nothing while nobody looks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime import pictures
from edge_runtime.dashboard import feed as feeds
from edge_runtime.dashboard.feed import MAX_FRESH, MAX_TURNS, PASS_BYTES, PICTURE_WIDTH, Feed, preview
from edge_runtime.dashboard.tail import MAX_CHARACTERS, MAX_LINES, Tail
from edge_runtime.messages import Frame, Utterance
from edge_runtime.slots import Slots
from edge_runtime.wire import Latency
from tests.conftest import jpeg, noise
from tests.publish.test_sinks import decision, status


def told(data: bytes) -> dict[str, Any]:
    return msgspec.json.decode(data)


def frame(seq: int, picture: Any = None, stream: str = "camera") -> Frame:
    return Frame(stream, seq, seq, jpeg(noise(100, seq)) if picture is None else picture)


def test_while_nobody_looks_nothing_is_held_but_the_newest_and_the_turns() -> None:
    feed = Feed()
    for seq in range(1000):
        feed.took(frame(seq, b""))
        feed.publish(decision(seq, label="go" if seq < 900 else "keep"))
    assert not feed._frames and not feed._shown and not feed._fresh
    assert [turn.label for turn in feed._turns] == ["go", "keep"]


def test_a_view_tells_what_is_new_and_hello_all_that_is_remembered() -> None:
    feed = Feed(with_pictures=True)
    feed.publish(decision(0))
    feed.watch(True)
    feed.publish(status(4))
    feed.publish(decision(1, label="go", latency_ms=Latency(7.0, 0.0, 0, {}, 0)))
    feed.took(frame(5))
    feed.took(Utterance("text", 0, 0, text="not a picture"))
    feed.publish(decision(2, label="go", source="safe", reason="camera stale", latency_ms=Latency(7.5, 0.1, 0, {}, 0)))
    feed.took(frame(6))
    first = told(feed.view())
    assert first["decision"]["seq"] == 2 and first["status"]["seq"] == 4
    assert [(turn["label"], turn["source"], turn["reason"]) for turn in first["turns"]] == [
        ("keep", "model", None),
        ("go", "model", None),
        ("go", "safe", "camera stale"),
    ]
    assert [point[1:] for point in first["points"]] == [[0.5, None], [0.5, 7.5]], "a heartbeat has no latency"
    assert [picture["seq"] for picture in first["pictures"]] == [5], "that which was decided on"
    assert told(feed.view()).keys() == {"silent_s"}
    hello = told(feed.hello())
    assert hello["shows"] == ["pictures"]
    assert hello["turns"] == first["turns"] and hello["decision"] == first["decision"]
    assert hello["pictures"] == first["pictures"] and hello["status"] == first["status"]
    feed.publish(decision(3, label="keep"))
    assert len(told(feed.hello())["turns"]) == 3, "what no view has told yet comes with the next"
    next_view = told(feed.view())
    assert [turn["number"] for turn in next_view["turns"]] == [3]
    assert [picture["seq"] for picture in next_view["pictures"]] == [6]


def test_what_is_remembered_has_limits() -> None:
    feed = Feed()
    feed.watch(True)
    for seq in range(3 * MAX_TURNS):
        feed.publish(decision(seq, label=f"l{seq}"))
    view = told(feed.view())
    assert len(view["turns"]) == MAX_TURNS and view["turns"][-1]["label"] == f"l{3 * MAX_TURNS - 1}"
    assert [turn["number"] for turn in view["turns"]] == list(range(2 * MAX_TURNS, 3 * MAX_TURNS))
    assert len(view["points"]) == MAX_FRESH


def test_who_looks_no_more_leaves_no_picture_behind() -> None:
    feed = Feed()
    feed.watch(True)
    feed.took(frame(0))
    feed.publish(decision(0))
    assert told(feed.view())["pictures"]
    feed.watch(False)
    assert not feed._frames and not feed._shown and not feed._fresh and not feed._told_pictures


def test_a_small_jpeg_is_shown_as_it_came_and_others_are_made_small() -> None:
    small = jpeg(noise(100, 1))
    assert preview(frame(0, small)) == small
    large = np.random.default_rng(1).integers(0, 255, (1080, 1920, 3), dtype=np.uint8)
    data = bytes(cv2.imencode(".jpg", large)[1])
    assert len(data) > PASS_BYTES
    for picture in (data, large):
        shown = preview(frame(0, picture))
        assert shown is not None and pictures.read_header(shown).width == PICTURE_WIDTH
        assert pictures.read_header(shown).height == 540
    raw = preview(frame(0, noise(100, 2)))
    assert raw is not None and pictures.decode(raw).shape == noise(100, 2).shape
    assert preview(frame(0, b"\xff\xd8" + bytes(PASS_BYTES))) is None


def test_the_last_lines_of_the_log_are_told_each_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_runtime")
    log = logging.getLogger("edge_runtime.somewhere")
    tail = Tail()
    try:
        feed = Feed(tail)
        for number in range(MAX_LINES + 50):
            log.info("line %d", number)
        log.warning("%s", "long \x1b[2J" * 1000)
        tail.handle(logging.LogRecord(log.name, logging.ERROR, "", 0, "%d", ("no number",), None))
        lines = told(feed.view())["lines"]
        assert len(lines) == MAX_LINES and lines[0]["text"] == "line 52"
        assert lines[-2]["level"] == "WARNING" and len(lines[-2]["text"]) < MAX_CHARACTERS * 2
        assert "cannot be said" in lines[-1]["text"]
        assert all(line["text"].isprintable() for line in lines)
        assert "lines" not in told(feed.view())
        assert told(feed.hello())["lines"] == lines
    finally:
        tail.close()
    log.info("after the end")
    assert told(feed.hello())["lines"] == lines


def test_slots_are_told_and_no_folder_of_slots_is_no_trouble(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SLOTS_S", 0.0)
    slots = Slots(tmp_path / "slots")
    (tmp_path / "slots").mkdir()
    feed = Feed(slots=tmp_path / "slots")
    assert "slots" not in told(feed.view())
    slots.install(tiny_bundle_path, allow_unsigned=True)
    (slot,) = told(feed.view())["slots"]
    assert (slot["name"], slot["version"], slot["state"], slot["runs"]) == ("tiny", "1.0.0", "pending", True)
    assert "slots" not in told(feed.view()), "nothing has changed"
    assert told(feed.hello())["slots"] == [slot]
    (tmp_path / "slots" / "state.json").write_text("{")
    assert "slots" not in told(feed.view())
