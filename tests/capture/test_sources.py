"""The contract of every source, one file for all kinds: deliver, account, end or stop, and never hang."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
import zmq

from edge_runtime import config
from edge_runtime.capture import SOURCES, open_sources
from edge_runtime.capture.files import StdinSource
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.capture.zmq_source import ZmqSource
from edge_runtime.clock import RealClock
from edge_runtime.errors import ConfigError
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.recording.recorder import Recorder
from edge_runtime.wire import BundleId
from tests import tiny
from tests.conftest import jpeg, noise, wait_for


class Inbox:
    """Mailboxes large enough to keep everything, and the intake before them."""

    def __init__(self) -> None:
        self.boxes = {name: Mailbox(10_000) for name in tiny.STREAMS}
        self.intake = Intake(tiny.STREAMS, self.boxes, RealClock())

    def captured(self, stream: str) -> int:
        return self.boxes[stream].captured

    def take(self, stream: str) -> list[Message]:
        return self.boxes[stream].take()

    def open(self, settings: config.SourceConfig) -> Source:
        return open_sources((settings,), tiny.STREAMS, self.intake, "")[0]


@contextmanager
def mjpeg_camera(port: int = 0) -> Iterator[str]:
    """A network camera: an HTTP server that streams JPEG pictures until the test ends."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            try:
                while not stop.is_set():
                    data = jpeg(noise(100, number, (48, 64)))
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    number += 1
                    time.sleep(0.02)
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/video.mjpg"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


def write_video(path: Path, frames: int = 12) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 50, (64, 48))
    for number in range(frames):
        writer.write(noise(120, number, (48, 64)))
    writer.release()
    return path


def write_images(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(jpeg(noise(100, number)))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def write_csv(path: Path, rows: int = 8) -> Path:
    lines = ["t_s,a,b,other"] + [f"{100 + 0.01 * row:.2f},{row},{'' if row % 2 else 1.5},x" for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


Case = tuple[Callable[[Path, Inbox], Source], str, int | None]


def make_zmq(folder: Path, inbox: Inbox) -> Source:
    source = inbox.open(config.ZmqSource("tcp://127.0.0.1:*"))
    assert isinstance(source, ZmqSource)
    start = source.start

    def start_and_send() -> None:
        start()
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.connect(source.endpoint)
            socket.send_json({"schema": 1, "stream": "sensors", "values": {"a": 2.0}})

    source.start = start_and_send  # type: ignore[method-assign]
    return source


def make_stdin(folder: Path, inbox: Inbox) -> Source:
    read, write = os.pipe()
    os.write(write, "stop\n停车\n\n".encode() + b"\xff\xfe\nlast")
    os.close(write)
    return StdinSource(inbox.intake, "text", read)


def write_recording(path: Path, steps: int = 10) -> Path:
    """Every 10 ms a frame and a sample, and one sentence; what a bundle of other streams would have sent, too."""
    recorder = Recorder(path, RealClock())
    streams = tiny.STREAMS | {"lidar": tiny.STREAMS["sensors"]}
    recorder.session(config.Config("x", "b", ()), BundleId("tiny", "1.0.0", "0" * 64), streams)
    for step in range(steps):
        at_ns = 5_000_000_000 + step * 10_000_000
        recorder.message(Frame("camera", step, at_ns, noise(100, step), id=f"f{step}"))
        recorder.message(Sample("sensors", step, at_ns + 1_000_000, {"a": float(step)}))
        recorder.message(Sample("lidar", step, at_ns + 1_000_000, {"a": float(step)}))
    recorder.message(Utterance("text", 0, at_ns + 2_000_000, "go on", "en"))
    recorder.close()
    return path


CASES: dict[str, Case] = {
    "zmq": (make_zmq, "sensors", None),
    "video": (
        lambda folder, inbox: inbox.open(config.VideoSource("camera", str(write_video(folder / "v.mp4")))),
        "camera",
        12,
    ),
    "images": (
        lambda folder, inbox: inbox.open(config.ImagesSource("camera", str(write_images(folder / "i")), rate_hz=100)),
        "camera",
        6,
    ),
    "file": (
        lambda folder, inbox: inbox.open(config.FileSource("sensors", str(write_csv(folder / "s.csv")))),
        "sensors",
        8,
    ),
    "stdin": (make_stdin, "text", 4),
    "recording": (
        lambda folder, inbox: inbox.open(config.RecordingSource(str(write_recording(folder / "r.mcap")))),
        "sensors",
        10,
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_delivers_everything_and_ends_or_stops(kind: str, tmp_path: Path) -> None:
    make, stream, expected = CASES[kind]
    inbox = Inbox()
    source = make(tmp_path, inbox)
    source.start()
    if expected is None:
        assert not type(source).ends
        wait_for(lambda: inbox.captured(stream) >= 1, "a message")
    else:
        wait_for(lambda: source.ended, "the end")
        assert inbox.captured(stream) == expected
    source.stop()
    source.stop()
    assert source.ended


@pytest.mark.parametrize("kind", CASES)
def test_a_source_that_was_never_started_closes(kind: str, tmp_path: Path) -> None:
    make, stream, _ = CASES[kind]
    inbox = Inbox()
    source = make(tmp_path, inbox)
    source.stop()
    assert inbox.captured(stream) == 0
    if isinstance(source, ZmqSource):
        again = ZmqSource(inbox.intake, source.endpoint)
        assert again.endpoint == source.endpoint
        again.stop()


def test_every_kind_of_source_has_a_maker() -> None:
    short = {config.WorldSource}
    assert set(SOURCES) == set(config.SourceConfig.__args__) - short  # type: ignore[attr-defined]


def test_a_network_camera_is_read_and_comes_back_after_an_outage() -> None:
    inbox = Inbox()
    with mjpeg_camera() as url:
        source = inbox.open(config.CameraSource("camera", url))
        source.start()
        wait_for(lambda: inbox.captured("camera") > 3, "frames")
        port = int(url.split(":")[2].split("/")[0])
    seen = -1
    while seen != inbox.captured("camera"):  # until the pipe has run dry
        seen = inbox.captured("camera")
        time.sleep(0.3)
    assert not source.ended
    with mjpeg_camera(port):
        wait_for(lambda: inbox.captured("camera") > seen + 3, "the camera to come back")
    source.stop(10)
    assert source.ended


def test_a_camera_that_is_not_there_is_tried_again_until_it_is(tmp_path: Path) -> None:
    inbox = Inbox()
    path = tmp_path / "camera.mp4"
    source = inbox.open(config.CameraSource("camera", str(path)))
    source.start()
    time.sleep(0.3)
    assert not source.ended and inbox.captured("camera") == 0
    write_video(tmp_path / "other.mp4").rename(path)
    # A file that ends looks like a camera that was unplugged: it is opened again, too.
    wait_for(lambda: inbox.captured("camera") > 12, "the camera to come back")
    source.stop(10)


def test_frames_carry_the_time_they_were_due_not_a_later_one(tmp_path: Path) -> None:
    inbox = Inbox()
    source = inbox.open(config.ImagesSource("camera", str(write_images(tmp_path / "i")), rate_hz=50))
    source.start()
    wait_for(lambda: source.ended, "the end")
    frames = inbox.take("camera")
    assert [frame.id for frame in frames] == [f"{number:03}.jpg" for number in range(6)]
    assert [frame.captured_ns for frame in frames] == sorted(frame.captured_ns for frame in frames)


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_a_file_keeps_its_own_spacing(tmp_path: Path, speed: float) -> None:
    inbox = Inbox()
    source = inbox.open(config.FileSource("sensors", str(write_csv(tmp_path / "s.csv", 20)), speed=speed))
    source.start()
    wait_for(lambda: source.ended, "the end")
    stamps = [message.captured_ns for message in inbox.take("sensors")]
    steps = [later - earlier for earlier, later in pairwise(stamps)]
    assert all(abs(step - 10_000_000 / speed) < 2000 for step in steps)


def test_files_of_one_drive_share_their_zero(tmp_path: Path) -> None:
    inbox = Inbox()
    (tmp_path / "text.jsonl").write_text('{"t_s": 100.05, "text": "go on", "lang": "en", "id": 7}\n')
    settings = (
        config.FileSource("sensors", str(write_csv(tmp_path / "s.csv"))),
        config.FileSource("text", str(tmp_path / "text.jsonl")),
    )
    sources = open_sources(settings, tiny.STREAMS, inbox.intake, "")
    for source in sources:
        source.start()
    wait_for(lambda: all(source.ended for source in sources), "the end")
    (sentence,) = inbox.take("text")
    assert sentence.id == "7"
    offset = sentence.captured_ns - inbox.take("sensors")[0].captured_ns
    assert offset == pytest.approx(50_000_000, abs=2000)


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    inbox = Inbox()
    path = tmp_path / "s.jsonl"
    rows = ['{"t_s": 0, "values": {"a": 1}}', "{broken", '{"t_s": "x", "a": 1}', '{"t_s": 0.01, "a": "x"}']
    rows += ['{"t_s": 0.02, "a": 1e9}', '{"t_s": 0.03, "a": null, "b": 2}']
    path.write_text("\n".join(rows))
    source = inbox.open(config.FileSource("sensors", str(path), columns={"a": "a", "b": "b"}))
    source.start()
    wait_for(lambda: source.ended, "the end")
    assert inbox.boxes["sensors"].counts(0).dropped == {"malformed": 3, "out_of_range": 1}
    assert len(inbox.take("sensors")) == 2


@pytest.mark.parametrize("speed", [1.0, 5.0])
def test_a_recording_plays_all_its_streams_at_its_own_spacing(tmp_path: Path, speed: float) -> None:
    inbox = Inbox()
    source = inbox.open(config.RecordingSource(str(write_recording(tmp_path / "r.mcap")), speed=speed))
    before_ns = time.monotonic_ns()
    source.start()
    wait_for(lambda: source.ended, "the end")
    frames, samples, (sentence,) = inbox.take("camera"), inbox.take("sensors"), inbox.take("text")
    assert [frame.id for frame in frames] == [f"f{step}" for step in range(10)]
    assert all((frame.image == noise(100, step)).all() for step, frame in enumerate(frames))  # type: ignore[union-attr]
    assert isinstance(sentence, Utterance) and (sentence.text, sentence.lang) == ("go on", "en")
    assert [sample.values for sample in samples] == [{"a": float(step)} for step in range(10)]  # type: ignore[union-attr]
    assert frames[0].captured_ns >= before_ns
    for stream in (frames, samples):
        steps = [later.captured_ns - earlier.captured_ns for earlier, later in pairwise(stream)]
        assert all(abs(step - 10_000_000 / speed) < 2000 for step in steps)


def test_a_recording_may_play_in_a_loop_and_be_stopped(tmp_path: Path) -> None:
    inbox = Inbox()
    source = inbox.open(config.RecordingSource(str(write_recording(tmp_path / "r.mcap")), speed=20.0, loop=True))
    source.start()
    wait_for(lambda: inbox.captured("text") >= 3, "the third round")
    source.stop(10)
    assert source.ended


def test_a_recording_of_other_streams_is_refused(tmp_path: Path) -> None:
    recording = config.RecordingSource(str(write_recording(tmp_path / "r.mcap")))
    streams = {"microphone": tiny.STREAMS["text"]}
    with pytest.raises(ConfigError, match=r"no message of the bundle's streams \['microphone'\]"):
        open_sources((recording,), streams, Inbox().intake, "")


MISTAKES = {
    "no such stream": (config.VideoSource("nose", "x.mp4"), "no fitting stream 'nose'; there are \\['camera'\\]"),
    "wrong kind of stream": (config.StdinSource("camera"), "no fitting stream 'camera'"),
    "no such video": (config.VideoSource("camera", "none.mp4"), "no such file"),
    "no such folder": (config.ImagesSource("camera", "none"), "no such folder"),
    "no such file": (config.FileSource("sensors", "none.csv"), "cannot be read"),
    "no such recording": (config.RecordingSource("none.mcap"), "cannot be read"),
    "no recording": (config.RecordingSource(__file__), "no MCAP file"),
    "no such type": (config.FileSource("sensors", __file__), "neither .csv nor .jsonl"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_named(what: str) -> None:
    settings, message = MISTAKES[what]
    with pytest.raises(ConfigError, match=message):
        Inbox().open(settings)


def test_a_file_without_the_right_columns_names_them(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv")
    open_file = partial(config.FileSource, "sensors", str(path))
    with pytest.raises(ConfigError, match="no row with a number or an ISO 8601 time in 'when'"):
        Inbox().open(open_file(time="when"))
    with pytest.raises(ConfigError, match="'c' is no channel"):
        Inbox().open(open_file(columns={"other": "c"}))
    with pytest.raises(ConfigError, match="has no column 'z'"):
        Inbox().open(open_file(columns={"z": "a"}))


def test_a_port_that_is_taken_is_named() -> None:
    first = ZmqSource(Inbox().intake, "tcp://127.0.0.1:*")
    with pytest.raises(ConfigError, match="is another runtime running"):
        ZmqSource(Inbox().intake, first.endpoint)
    first.stop()


def play(inbox: Inbox, settings: config.SourceConfig) -> None:
    source = inbox.open(settings)
    source.start()
    wait_for(lambda: source.ended, "the end")


def test_a_word_in_a_cell_costs_that_channel_only_and_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    inbox = Inbox()
    path = tmp_path / "s.csv"
    path.write_text(
        "Time;A;B\n2024-05-06T07:00:00Z;1,5;broken\n2024-05-06T07:00:00.1Z;NaN;2\n2024-05-06T07:00:00.2Z;9;9;9\n"
    )
    play(inbox, config.FileSource("sensors", str(path), speed=10.0))
    samples = inbox.take("sensors")
    assert [message.values for message in samples] == [{"a": 1.5}, {"b": 2.0}]  # type: ignore[union-attr]
    assert samples[1].captured_ns - samples[0].captured_ns == pytest.approx(10_000_000, abs=2000)
    assert inbox.boxes["sensors"].counts(0).dropped == {"malformed": 2}
    assert "line 2: 'B' is 'broken', which is no number" in caplog.text
    assert "ended; 3 rows read, refused: malformed 2" in caplog.text
    assert "times are taken from 'Time'" in caplog.text


def test_rows_that_name_different_channels_are_all_heard(tmp_path: Path) -> None:
    inbox = Inbox()
    path = tmp_path / "s.jsonl"
    path.write_text('{"t_ms": 0, "a": 1}\n{"t_ms": 10, "b": 2}\n{"t_ms": 20, "c": 3}\n')
    play(inbox, config.FileSource("sensors", str(path)))
    samples = inbox.take("sensors")
    assert [message.values for message in samples][:2] == [{"a": 1.0}, {"b": 2.0}]  # type: ignore[union-attr]
    assert samples[1].captured_ns - samples[0].captured_ns == pytest.approx(10_000_000, abs=2000)


def test_sentences_that_are_not_utf8_are_refused_alone(tmp_path: Path) -> None:
    inbox = Inbox()
    path = tmp_path / "t.csv"
    path.write_bytes(b"t_s,text\n0,go on\n" + b"0,caf\xe9\n" + "0,停车\n".encode())
    play(inbox, config.FileSource("text", str(path)))
    assert [message.text for message in inbox.take("text")] == ["go on", "停车"]  # type: ignore[union-attr]
    assert inbox.boxes["text"].counts(0).dropped == {"not_utf8": 1}


def test_without_standard_input_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="standard input is closed"):
        Inbox().open(config.StdinSource("text"))


@pytest.mark.parametrize("name", ["raw.mjpeg", "one.avi", "still.jpg", "film.mp4"])
def test_a_loop_starts_again_whatever_cannot_be_rewound(tmp_path: Path, name: str) -> None:
    inbox, path = Inbox(), tmp_path / name
    pictures = [noise(100, number, (48, 64)) for number in range(3)]
    if name == "raw.mjpeg":
        path.write_bytes(b"".join(map(jpeg, pictures)))
    elif name == "still.jpg":
        path.write_bytes(jpeg(pictures[0]))
    elif name == "film.mp4":
        write_video(path, 3)
    else:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (64, 48))
        writer.write(pictures[0])
        writer.release()
    source = inbox.open(config.VideoSource("camera", str(path), speed=4.0, loop=True))
    source.start()
    wait_for(lambda: inbox.captured("camera") >= 7, "the third round")
    source.stop(10)
    frames = inbox.take("camera")
    assert inbox.boxes["camera"].counts(0).dropped == {}
    gaps = [later.captured_ns - earlier.captured_ns for earlier, later in pairwise(frames)]
    assert min(gaps) > 0 and sorted(gaps)[len(gaps) // 2] > 2_000_000, "no spin"


def test_a_motion_jpeg_with_holes_is_refused_frame_by_frame(tmp_path: Path) -> None:
    inbox, path = Inbox(), tmp_path / "raw.mjpeg"
    whole = [jpeg(noise(100, number, (96, 128))) for number in range(6)]
    holed = [one[: len(one) // 3] + one[len(one) // 2 :] if number % 2 else one for number, one in enumerate(whole)]
    path.write_bytes(b"".join(holed))
    play(inbox, config.VideoSource("camera", str(path)))
    assert inbox.boxes["camera"].counts(0).dropped == {"corrupt": 3}
    assert [frame.encoded is not None for frame in inbox.take("camera")] == [True] * 3  # type: ignore[union-attr]


def test_a_camera_that_gives_only_refused_frames_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_runtime.capture.cameras.REFUSED_NS", 100_000_000)
    monkeypatch.setitem(globals(), "jpeg", lambda image, whole=jpeg: whole(image)[:-40])
    inbox = Inbox()
    with mjpeg_camera() as url:
        source = inbox.open(config.CameraSource("camera", url))
        source.start()
        wait_for(lambda: caplog.text.count("only frames that are refused; opening it again") >= 2, "the second try")
        source.stop(10)
    counts = inbox.boxes["camera"].counts(0)
    assert set(counts.dropped) == {"corrupt"} and counts.captured == counts.dropped["corrupt"]


def test_pictures_of_every_kind_are_read_by_content_and_other_systems_files_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    inbox = Inbox()
    image = noise(100, 1)
    for name, kind in (("a.JPG", ".jpg"), ("b.png", ".png"), ("c.jpg", ".png"), ("d.webp", ".webp"), ("e.bmp", ".bmp")):
        (tmp_path / name).write_bytes(cv2.imencode(kind, image)[1].tobytes())
    for name in ("._a.JPG", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "f.jpg").write_bytes(jpeg(image)[:-30])
    (tmp_path / "g.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "h.jpg")
    play(inbox, config.ImagesSource("camera", str(tmp_path), rate_hz=100))
    assert [frame.id for frame in inbox.take("camera")] == ["a.JPG", "b.png", "c.jpg", "d.webp", "e.bmp"]
    assert inbox.boxes["camera"].counts(0).dropped == {"corrupt": 1, "unreadable": 2}
    assert "8 pictures read, refused: corrupt 1, unreadable 2" in caplog.text
