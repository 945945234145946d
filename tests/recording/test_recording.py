"""What a recording holds, for us and for readers that know nothing of us; and what becomes of it in trouble."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.data_stream import RecordBuilder
from mcap.reader import make_reader
from mcap.records import Chunk, Header
from numpy.testing import assert_array_equal

from edge_runtime import schema
from edge_runtime.bundle import Bundle
from edge_runtime.clock import RealClock
from edge_runtime.config import Config, RecordConfig
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.kinds.camera import CompressedImage
from edge_runtime.kinds.sensors import SensorSample
from edge_runtime.kinds.text import Sentence
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.recording.mcap_file import MAX_RECORD_BYTES
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.recorder import MAX_WAITING_BYTES, Recorder, free_name
from edge_runtime.recording.records import Session, encode, to_record
from edge_runtime.streams import kind_of_message
from edge_runtime.wire import BundleId, DecisionMessage, StatusMessage
from tests import tiny
from tests.cli.test_cli import command
from tests.conftest import jpeg, noise, tiny_config, wait_for
from tests.recording.conftest import FRAMES
from tests.test_runtime import driving

Recorded = tuple[Path, list[DecisionMessage]]
CONFIG = Config(name="test", bundle="b", source=())
BUNDLE = BundleId("tiny", "1.0.0", "0" * 64)


@contextmanager
def recording_to(path: Path, max_gb: float | None = None) -> Iterator[Recorder]:
    recorder = Recorder(path, RealClock(), max_gb)
    recorder.session(CONFIG, BUNDLE, tiny.STREAMS)
    try:
        yield recorder
    finally:
        recorder.close()


def messages(path: Path) -> list[Message]:
    return [event for event in Recording(path).events() if isinstance(event, Frame | Sample | Utterance)]


def stock(path: Path) -> list[tuple[str, str, dict[str, Any], int, dict[str, Any]]]:
    """Topic, schema name, schema, log time and message, by the mcap library alone."""
    with path.open("rb") as file:
        found = []
        for kind, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            assert kind is not None and kind.encoding == "jsonschema" and channel.message_encoding == "json"
            found.append((channel.topic, kind.name, json.loads(kind.data), message.log_time, json.loads(message.data)))
        return found


def test_a_stock_reader_finds_everything_under_valid_schemas(recorded: Recorded) -> None:
    path, seen = recorded
    rows = stock(path)
    counts = Counter((topic, name) for topic, name, *_ in rows)
    assert counts["/streams/camera", "foxglove.CompressedImage"] == FRAMES
    assert counts["/streams/sensors", "edge_runtime.SensorSample.sensors"] == FRAMES
    assert counts["/streams/text", "edge_runtime.Sentence"] == 3
    assert counts["/session", "edge_runtime.Session"] == 1
    assert counts["/decision", "edge_runtime.Decision"] >= len(seen) > FRAMES
    assert counts["/status", "edge_runtime.Status"] >= 2
    for _, _, kind, log_time, message in rows:
        jsonschema.Draft202012Validator.check_schema(kind)
        jsonschema.Draft202012Validator(kind).validate(message)
        assert abs(log_time - time.time_ns()) < 3600e9
    shipped = jsonschema.Draft202012Validator(json.loads(schema.path("decision").read_text()))
    published = [message for topic, *_, message in rows if topic == "/decision"]
    for message in published:
        shipped.validate(message)
    by_seq = {message["seq"]: message for message in published}
    assert all(by_seq[one.seq] == msgspec.to_builtins(one) for one in seen)


def viewer_accepts(kind: dict[str, Any], place: str) -> None:
    """Foxglove reads objects with `properties` whose members have one simple type each, and refuses all else."""
    assert kind["type"] == "object" and isinstance(kind["properties"], dict), place
    for name, part in kind["properties"].items():
        here = f"{place}.{name}"
        assert "oneOf" not in part, here
        if part["type"] == "object":
            viewer_accepts(part, here)
        elif part["type"] == "array":
            if part["items"]["type"] == "object":  # as foxglove.ImageAnnotations has them
                viewer_accepts(part["items"], here)
            else:
                assert part["items"]["type"] in ("string", "number", "integer", "boolean"), here
        else:
            assert part["type"] in ("string", "number", "integer", "boolean"), here
            assert part.get("contentEncoding") in (None, "base64"), here


def test_a_viewer_can_read_the_schemas_and_plot_the_channels(recorded: Recorded) -> None:
    kinds = {name: kind for _, name, kind, *_ in stock(recorded[0])}
    for name, kind in kinds.items():
        viewer_accepts(kind, name)
    assert set(kinds["foxglove.CompressedImage"]["required"]) >= {"timestamp", "frame_id", "data", "format"}
    assert set(kinds["edge_runtime.SensorSample.sensors"]["properties"]["values"]["properties"]) == {"a", "b"}
    assert {"label", "confidence", "latency_ms"} <= set(kinds["edge_runtime.Decision"]["properties"])


def test_the_camera_s_own_jpeg_is_kept_byte_for_byte(recorded: Recorded) -> None:
    rows = [message for topic, *_, message in stock(recorded[0]) if topic == "/streams/camera"]
    frames = [message for message in messages(recorded[0]) if isinstance(message, Frame)]
    for number, (row, read) in enumerate(zip(rows, frames, strict=True)):
        sent = jpeg(noise(40 + 7 * number % 200, number))
        assert msgspec.json.decode(json.dumps(row["data"]), type=bytes) == sent == read.encoded
        assert (row["format"], row["id"], row["seq"]) == ("jpeg", f"f{number}", number)
        assert_array_equal(read.image, cv2.imdecode(np.frombuffer(sent, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("keep", [0.999, 0.7, 0.3])
def test_one_that_was_cut_short_is_read_up_to_the_cut(recorded: Recorded, tmp_path: Path, keep: float) -> None:
    whole = list(Recording(recorded[0]).events())
    data = recorded[0].read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: int(keep * len(data))])
    recording = Recording(path)
    rest = list(recording.events())
    assert recording.cut and 0 < len(rest) <= len(whole)
    assert [encode_event(event) for event in rest] == [encode_event(event) for event in whole[: len(rest)]]


def encode_event(event: Any) -> bytes:
    return encode(to_record(event, 0) if isinstance(event, Frame | Sample | Utterance) else event)


def test_a_whole_one_is_not_cut_and_a_damaged_one_is_named(recorded: Recorded, tmp_path: Path) -> None:
    recording = Recording(recorded[0])
    list(recording.events())
    assert not recording.cut and recording.position == recording.size
    data = bytearray(recorded[0].read_bytes())
    data[len(data) // 3] ^= 0xFF
    (tmp_path / "damaged.mcap").write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        list(Recording(tmp_path / "damaged.mcap").events())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"", "no MCAP file"), (b"not an MCAP file at all", "no MCAP file")],
)
def test_what_is_no_recording_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.mcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Recording(path)


names = st.none() | st.text(max_size=8).filter(lambda text: text.isprintable())
stamps = st.integers(0, 2**53)
samples = st.builds(
    Sample,
    st.just("sensors"),
    st.integers(0, 2**40),
    stamps,
    st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    id=names,
)
utterances = st.builds(
    Utterance,
    st.just("text"),
    st.integers(0, 2**40),
    stamps,
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    names,
    st.booleans(),
    id=names,
)


@settings(max_examples=60)
@given(samples | utterances, stamps)
def test_values_and_sentences_come_back_as_they_were(message: Message, wall_ns: int) -> None:
    kind = SensorSample if isinstance(message, Sample) else Sentence
    written = msgspec.json.decode(encode(to_record(message, wall_ns)), type=kind)
    assert kind_of_message(message).to_message(message.stream, written) == message
    assert written.timestamp.sec * 10**9 + written.timestamp.nsec == wall_ns


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(8, 40), st.integers(8, 40)), st.booleans())
def test_pictures_come_back_bit_for_bit(seed: int, shape: tuple[int, int], as_jpeg: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    encoded = memoryview(jpeg(image)) if as_jpeg else None
    if encoded is not None:
        image = np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    frame = Frame("camera", 3, 5, image if encoded is None else encoded, id="x")
    back = kind_of_message(frame).to_message(
        "camera", msgspec.json.decode(encode(to_record(frame, 0)), type=CompressedImage)
    )
    assert isinstance(back, Frame)
    assert_array_equal(back.image, image)
    assert (back.seq, back.captured_ns, back.id, back.encoded) == (3, 5, "x", None if encoded is None else encoded)


def test_pictures_may_be_kept_smaller_and_the_session_says_so(tmp_path: Path) -> None:
    image = cv2.GaussianBlur(noise(100, 0, (120, 160)), (0, 0), 3)
    own = jpeg(image)
    for quality in (None, 80):
        path = tmp_path / f"{quality}.mcap"
        recorder = Recorder(path, RealClock(), jpeg_quality=quality)
        recorder.session(CONFIG, BUNDLE, tiny.STREAMS)
        recorder.message(Frame("camera", 0, 1, np.asarray(image, np.uint8)))
        recorder.message(Frame("camera", 1, 2, own))
        recorder.close()
    assert Recording(tmp_path / "None.mcap").session.jpeg_quality is msgspec.UNSET
    assert Recording(tmp_path / "80.mcap").session.jpeg_quality == 80
    exact, kept = messages(tmp_path / "None.mcap")
    assert isinstance(exact, Frame) and isinstance(kept, Frame)
    assert_array_equal(exact.image, image)
    near, kept_too = messages(tmp_path / "80.mcap")
    assert isinstance(near, Frame) and isinstance(kept_too, Frame)
    assert near.encoded is not None and not (near.image == image).all()
    assert kept.encoded == kept_too.encoded == own
    assert (tmp_path / "80.mcap").stat().st_size < (tmp_path / "None.mcap").stat().st_size


def test_numpy_s_numbers_are_numbers(tmp_path: Path) -> None:
    with recording_to(tmp_path / "a.mcap") as recorder:
        recorder.message(Sample("sensors", 0, 1, {"a": np.float32(0.1)}))  # type: ignore[dict-item]
    (sample,) = messages(tmp_path / "a.mcap")
    assert isinstance(sample, Sample) and sample.values == {"a": float(np.float32(0.1))}


def test_a_disk_that_is_full_ends_the_recording_and_not_the_run(tmp_path: Path, tiny_bundle_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_runtime.recording.recorder._create", lambda path: Path("/dev/full").open("wb"))  # noqa: SIM115
        configuration = msgspec.structs.replace(
            tiny_config(tiny_bundle_path), record=RecordConfig(str(tmp_path / "full.mcap"))
        )
        with driving(configuration) as (_, vehicle):
            while not (vehicle.statuses and vehicle.statuses[-1].recording and vehicle.statuses[-1].recording.stopped):
                vehicle.answer(240, f"f{vehicle.frames}")
            assert "No space left" in str(vehicle.statuses[-1].recording.stopped)
            assert vehicle.answer(240, "after").source == "model"


PICTURES = """
name = "pictures"
bundle = "{bundle}"
allow_unsigned = true
stop_at_end = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "images"
stream = "camera"
path = "pictures"
rate_hz = 50.0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
def test_what_was_written_before_the_disk_was_full_replays(tmp_path: Path, tiny_bundle_path: Path) -> None:
    """The kernel refuses to let the file grow beyond a limit, in the middle of a write."""
    import resource

    (tmp_path / "pictures").mkdir()
    for number in range(100):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number:03}.png"), noise(100, number, (48, 64)))
    (tmp_path / "c.toml").write_text(PICTURES.format(bundle=tiny_bundle_path, folder=tmp_path))
    path = tmp_path / "cut.mcap"
    limit = 150_000  # of 900 kB: on a busy machine most pictures are replaced before they are recorded
    result = command(
        *("record", tmp_path / "c.toml", "-o", path),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 0, result.stderr
    assert "record: stopped, decisions go on: File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert path.stat().st_size == limit
    checked = command("replay", path, "--allow-unsigned")
    assert checked.returncode == 0, checked.stderr
    assert "is missing" in checked.stderr and " 0 changed" in " ".join(checked.stderr.split())


def test_a_recording_ends_at_its_size_limit_and_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with recording_to(path, max_gb=0.001) as recorder:
        sent = 0
        while recorder.recording().stopped is None:
            recorder.message(Frame("camera", sent, sent, noise(100, sent, (120, 160))))
            recorder.serve()
            sent += 1
            time.sleep(0.001)
        assert "max_gb = 0.001" in str(recorder.recording().stopped)
    assert 1_000_000 < path.stat().st_size < 4_000_000
    recording = Recording(path)
    found = [event for event in recording.events() if isinstance(event, Frame)]
    assert not recording.cut and [frame.seq for frame in found] == list(range(len(found)))


def test_a_disk_that_is_too_slow_ends_the_recording_and_nothing_waits_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    image = noise(100, 0, (1000, 1000))
    with recording_to(path) as recorder:
        recorder.message(Frame("camera", 0, 0, image))
        recorder.serve()
        # Within one turn comes more than may ever wait.
        for seq in range(1, 2 + MAX_WAITING_BYTES // image.nbytes):
            recorder.message(Frame("camera", seq, seq, image))
        recorder.serve()
        stopped = recorder.recording().stopped
        recorder.message(Frame("camera", 10_000, 10_000, image))
        recorder.serve()
        wait_for(lambda: not recorder._thread.is_alive(), "the writer to finish what it has")
    assert stopped is not None and "too slow" in stopped
    assert [message.seq for message in messages(path)] == [0]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    assert free_name(path) == path
    path.touch()
    (tmp_path / "drive-2.mcap").touch()
    assert free_name(path) == tmp_path / "drive-3.mcap"
    with pytest.raises(ConfigError, match="is there already"):
        Recorder(path, RealClock())
    with pytest.raises(ConfigError, match="cannot be written"):
        Recorder(tmp_path / "none" / "x.mcap", RealClock())


def test_the_session_names_what_decided(recorded: Recorded, tiny_bundle: Bundle) -> None:
    session = Recording(recorded[0]).session
    assert (session.bundle.digest, session.bundle_path) == (tiny_bundle.digest, str(tiny_bundle.path))
    kinds = Counter(type(event) for event in Recording(recorded[0]).events())
    assert kinds[Session] == 1 and kinds[StatusMessage] >= 2


def test_a_recording_is_its_user_s_alone(recorded: Recorded) -> None:
    assert stat.S_IMODE(recorded[0].stat().st_mode) == 0o600


def _with_chunk(path: Path, packed: bytes, compression: str, announced: int) -> Path:
    """A file that begins as a recording does, with one chunk that holds `packed`."""
    writer = RecordBuilder()
    Header(profile="", library="").write(writer)
    Chunk(compression, packed, 0, 0, 0, announced).write(writer)
    path.write_bytes(b"\x89MCAP0\r\n" + writer.end())
    return path


@pytest.mark.parametrize("announced", [1000, 4 << 30], ids=["by the frame alone", "by the chunk"])
def test_a_chunk_that_announces_more_than_a_recording_holds_is_refused_unread(tmp_path: Path, announced: int) -> None:
    size = MAX_RECORD_BYTES + (1 << 20)
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(size))
    path = _with_chunk(tmp_path / "bomb.mcap", packed, "zstd", announced)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(UserError, match=f"a chunk announces {max(size, announced)} bytes, at most") as refused:
        Recording(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert "\n" not in str(refused.value)


def test_a_chunk_of_another_packing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a chunk is packed with 'lz4', not with zstd"):
        Recording(_with_chunk(tmp_path / "x.mcap", b"whatever", "lz4", 10))


@pytest.mark.parametrize("inner", [False, True], ids=["the record", "its data"])
def test_a_record_that_announces_what_is_not_there_takes_no_memory(tmp_path: Path, inner: bool) -> None:
    path = _with_chunk(tmp_path / "x.mcap", b"data" * 9, "", 36)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") - 8 if inner else data.index((36).to_bytes(8, "little")) - 8 - 16
    data[place : place + 8] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(data + bytes(64))
    tracemalloc.start()
    with pytest.raises(UserError, match="is damaged or no MCAP file"):
        Recording(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_pipe_is_no_recording(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mcap")
    with pytest.raises(UserError, match="cannot be read"):
        Recording(tmp_path / "x.mcap")


def test_streams_may_change_with_a_session_and_names_be_taken_by_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    before = Sample("sensors", 0, 1, values={"a": 1.0})
    after = Utterance("sensors", 0, 2, text="hello")
    with recording_to(path) as recorder:
        recorder.message(before)
        # Both before the writer's thread has seen any of it.
        recorder.session(CONFIG, BUNDLE, {"sensors": tiny.STREAMS["text"]})
        recorder.message(after)
        recorder.session(CONFIG, BUNDLE, {})
        recorder.serve()
    assert recorder.stopped is None
    assert messages(path) == [before, after]
    names = {(topic, name) for topic, name, *_ in stock(path)}
    assert {
        ("/streams/sensors", "edge_runtime.SensorSample.sensors"),
        ("/streams/sensors", "edge_runtime.Sentence"),
    } <= (names)
