"""The world's commands: recordings, the contact sheet, and the drive over real sockets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import msgspec
import pytest
import zmq

from edge_runtime.errors import UserError
from edge_runtime.wire import InputMessage, decode_input
from edge_runtime.world import sheet
from edge_runtime.world.drive import Drive, Link, Plan
from edge_runtime.world.record import record
from edge_runtime.world.score import Score, write_score


def test_record_writes_a_readable_set(tmp_path: Path) -> None:
    summary = record(tmp_path, "val", 2, 20.0, 0, 3.0)
    rows = [json.loads(line) for line in (tmp_path / "val" / "messages.jsonl").read_text("utf-8").splitlines()]
    pictures = [row for row in rows if row["stream"] == "camera.front"]
    assert len(pictures) == summary["frames"] == 120
    for row in pictures:
        assert row["label"] in ("keep", "slow", "stop", "turn_left", "turn_right")
        assert row["label_without_text"] in ("keep", "slow", "stop")
        assert row["condition"] in ("day", "dusk", "fog")
    image = cv2.imread(str(tmp_path / "val" / pictures[-1]["frame"]))
    assert image is not None and image.shape == (360, 640, 3)
    assert {row["stream"] for row in rows} == {"camera.front", "sensors", "position", "text"}
    order = [(row["episode"], row["t_s"]) for row in rows]
    assert order == sorted(order)
    assert json.loads((tmp_path / "val" / "summary.json").read_text())["label_shares"]
    with pytest.raises(UserError, match="holds a recording already"):
        record(tmp_path, "val", 1, 1.0, 0, 3.0)


def test_record_splits_have_disjoint_seeds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed"):
        record(tmp_path, "train", 2, 1.0, 999_999, 3.0)
    first = {record(tmp_path, split, 1, 0.2, 0, 3.0)["first_seed"] for split in ("train", "val")}
    assert first == {1_000_000, 2_000_000}


def test_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "DRIVES", 1)
    sheet.write_sheet(1, tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None and image.shape[1] == 3 * 640
    with pytest.raises(UserError, match="cannot be written"):
        sheet.write_sheet(1, tmp_path / "sheet.unknown")


class _Peer:
    """Takes the world's messages and publishes one label at 20 Hz, from its own thread."""

    def __init__(self, folder: Path, label: str | None) -> None:
        self.inputs, self.decisions = f"ipc://{folder}/inputs", f"ipc://{folder}/decisions"
        self.messages: list[InputMessage] = []
        self.frames = 0
        self._label, self._over = label, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()

    def __enter__(self) -> _Peer:
        self._thread.start()
        assert self._ready.wait(5.0)
        return self

    def __exit__(self, *reason: object) -> None:
        self._over.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        context = zmq.Context()
        pull, pub = context.socket(zmq.PULL), context.socket(zmq.PUB)
        pull.bind(self.inputs)
        pub.bind(self.decisions)
        self._ready.set()
        seq, due = 0, time.monotonic()
        while not self._over.is_set():
            if pull.poll(10):
                parts = pull.recv_multipart()
                self.messages.append(decode_input(parts[0]))
                if len(parts) == 2:
                    self.frames += parts[1][:2] == b"\xff\xd8"
            if self._label is not None and time.monotonic() >= due:
                seq, due = seq + 1, time.monotonic() + 0.05
                body = {"label": self._label, "seq": seq, "published_ns": time.monotonic_ns(), "source": "model"}
                pub.send_multipart([b"decision.test", msgspec.json.encode(body)])
        context.destroy(linger=0)


def _drive(peer: _Peer, **changes: object) -> Score:
    link = Link(peer.inputs, peer.decisions)
    try:
        return Drive(Plan(peer.inputs, peer.decisions, **changes), link).run()  # type: ignore[arg-type]
    finally:
        link.close()


def test_stop_decisions_keep_the_car_parked(tmp_path: Path) -> None:
    with _Peer(tmp_path, "stop") as peer:
        score = _drive(peer, duration_s=3.0, seed=1)
    assert score.distance_m == 0.0
    assert score.stopped_s == pytest.approx(3.0, abs=0.1)
    assert score.safe_stops == 0
    assert score.decisions_received > 20 and score.labels["stop"] == score.decisions_received
    assert peer.frames > 40
    streams = {message.stream for message in peer.messages}
    assert streams == {"camera.front", "sensors", "position", "text"}
    assert all(message.captured_ns for message in peer.messages)


def test_unplugged_modalities_are_not_sent(tmp_path: Path) -> None:
    with _Peer(tmp_path, "keep") as peer:
        score = _drive(peer, duration_s=2.0, unplug=frozenset({"camera", "range"}), unplug_at_s=0.0)
    assert score.distance_m > 3.0
    assert "camera.front" not in score.messages_sent and peer.frames == 0
    assert not any("range_4_m" in (message.values or {}) for message in peer.messages)
    assert any("speed_mps" in (message.values or {}) for message in peer.messages)


def test_process_ends_on_sigterm_with_a_score_and_nobody_deciding(tmp_path: Path) -> None:
    out = tmp_path / "score.json"
    command = [sys.executable, "-m", "edge_runtime.world", "drive", "--duration", "60", "--score", str(out)]
    command += ["--inputs", f"ipc://{tmp_path}/a", "--decisions", f"ipc://{tmp_path}/b"]
    with zmq.Context() as context, context.socket(zmq.PULL) as inputs:
        inputs.bind(f"ipc://{tmp_path}/a")
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert inputs.poll(30_000), "the world sends nothing"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30.0)
    assert process.returncode == 0, errors.decode()
    score = msgspec.json.decode(out.read_bytes(), type=Score)
    assert score.distance_m == 0.0 and score.decisions_received == 0


def test_bad_endpoint_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="endpoint"):
        Link("nonsense", "tcp://127.0.0.1:5560")


def test_score_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_score(Score(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), tmp_path / "file" / "score.json")
