"""A replay decides what the live run decided, bit for bit; and says what another bundle would have decided."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer

from edge_runtime import bundles
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.cli import EXIT_GATE, EXIT_USER, commands, run_command
from edge_runtime.clock import RealClock
from edge_runtime.config import Config, EngineConfig, RecordConfig, RecordingSource, ZmqSource
from edge_runtime.errors import UserError
from edge_runtime.machine_kind import MachineKind, machine_kind
from edge_runtime.messages import Detection, Frame
from edge_runtime.pipeline import Pipeline
from edge_runtime.publish.sink import published
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.recorder import Recorder
from edge_runtime.recording.records import SESSION, Session
from edge_runtime.replay import Answer, recorded_answer, recorded_bundle, recorded_engine, replay
from edge_runtime.runtime import Runtime
from edge_runtime.wire import BundleId, DecisionMessage, Latency
from tests import tiny
from tests.cli.test_cli import command
from tests.conftest import WAIT_S, running, tiny_config
from tests.recording.conftest import drive, recorded  # noqa: F401  (a fixture)
from tests.test_runtime import driving

Recorded = tuple[Path, list[DecisionMessage]]
BUNDLE = BundleId("tiny", "1.0.0", "0" * 64)


def replayed(path: Path, bundle: Bundle) -> list[tuple[Answer, Answer]]:
    """What was decided, and what is decided now."""
    return [(recorded_answer(old), new) for old, new in replay(Recording(path), lambda _: Pipeline(bundle))]


def test_a_live_run_replays_bit_for_bit(recorded: Recorded, tiny_bundle: Bundle) -> None:  # noqa: F811
    path, seen = recorded
    pairs = replayed(path, tiny_bundle)
    assert all(old == new for old, new in pairs)
    answers = {new.seq: new for _, new in pairs}
    assert all(answers[one.seq] == recorded_answer(one) for one in seen)
    # It is no replay of nothing: all labels, stale inputs, heartbeats and safe decisions are in it.
    assert {new.label for _, new in pairs} == set(tiny.LABELS)
    assert any(new.reason == "camera stale" for _, new in pairs)
    assert any(new.taken_ns == new.captured_ns for _, new in pairs)
    assert [new.seq for _, new in pairs] == list(range(len(pairs)))


@given(st.integers(0, 2**48), st.integers(0, 2**48))
def test_the_time_that_ages_were_taken_at_is_known_exactly(captured_ns: int, queue_ns: int) -> None:
    queue = msgspec.json.decode(msgspec.json.encode(queue_ns / 1e6), type=float)
    assert captured_ns + round(queue * 1e6) == captured_ns + queue_ns


def test_hysteresis_and_a_failing_engine_replay_too(tmp_path: Path) -> None:
    policies: Mapping[str, tuple[float, object]] = {
        "held": (1.0, tiny.DecisionPolicy("stop", hold=3, heartbeat_ms=200)),
        "broken": (float("nan"), tiny.DecisionPolicy("stop", heartbeat_ms=200)),
    }
    for name, (scale, policy) in policies.items():
        bundle = tiny.write_bundle(tmp_path / name, scale=scale, policy=policy)  # type: ignore[arg-type]
        path = tmp_path / f"{name}.mcap"
        configuration = msgspec.structs.replace(tiny_config(bundle), record=RecordConfig(str(path)))
        with driving(configuration) as (_, vehicle):
            drive(vehicle, 12)
        pairs = replayed(path, open_bundle(bundle, allow_unsigned=True))
        assert len(pairs) > 12 and all(old == new for old, new in pairs)


def held(path: Path, bundle: Bundle, **session: object) -> Path:
    """A recording of a bright frame, a dark one and a heartbeat, of a bundle that changes its mind at the second time.
    Fields of its session are replaced by `session`; None leaves one out, as those who did not know of it did.
    """
    recorder = Recorder(path, RealClock())
    recorder.session(Config(name="test", bundle=str(bundle.path), source=()), BUNDLE, bundle.manifest.streams)
    pipeline = Pipeline(bundle)
    for seq, brightness in enumerate((250, 5, None)):
        at_ns = 10_000_000 * seq
        if brightness is not None:
            picture = np.full((tiny.HEIGHT, tiny.WIDTH, 3), brightness, np.uint8)
            recorder.message(frame := Frame("camera", seq, at_ns, picture))
            pipeline.add(frame)
        said = pipeline.decide(at_ns, at_ns, heartbeat=brightness is None)
        latency = Latency(0.0, 0.0 if brightness is None else 1e-6, 0.0, {}, 0.0)
        recorder.publish(
            published(
                DecisionMessage(
                    1, "test", BUNDLE, seq, at_ns, at_ns, "", said.verdict.label, said.verdict.confidence,
                    dict(said.verdict.probabilities), [], said.verdict.source, None, {}, latency, {}, {}, {},
                )
            )
        )  # fmt: skip
    pipeline.close()
    recorder.serve()
    recorder.close()
    assert recorder.stopped is None
    return remade(path, path.with_suffix(".again"), session)


def remade(path: Path, out: Path, session: Mapping[str, object]) -> Path:
    """A recording with other fields in its sessions, or without those that are None."""
    with path.open("rb") as file, out.open("wb") as copy:
        writer, channels = Writer(copy), dict[int, int]()
        writer.start()
        for schema, channel, message in make_reader(file).iter_messages(log_time_order=False):
            assert schema is not None
            if channel.id not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(channel.topic, "json", number)
            data = message.data
            if channel.topic == SESSION:
                fields = json.loads(data) | msgspec.to_builtins(session)
                data = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
            writer.add_message(channels[channel.id], message.log_time, data, message.publish_time)
        writer.finish()
    return out


@pytest.mark.parametrize(
    ("session", "labels"),
    [
        ({}, ["bright", "bright", "bright"]),
        ({"rules": 2}, ["bright", "bright", "bright"]),
        ({"rules": 1}, ["bright", "bright", "dark"]),  # there, a heartbeat was a second time
        ({"rules": None}, ["bright", "bright", "dark"]),  # made before rules had numbers
    ],
)
def test_a_recording_is_replayed_by_the_rules_it_was_made_by(
    tmp_path: Path, session: dict[str, object], labels: list[str]
) -> None:
    policy = tiny.DecisionPolicy("stop", hold=2)
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", policy=policy), allow_unsigned=True)
    path = held(tmp_path / "a.mcap", bundle, **session)
    assert Recording(path).session.rules == session.get("rules", 2) or session == {"rules": None}
    assert [new.label for _, new in replayed(path, bundle)] == labels


def test_a_recording_of_rules_that_are_not_known_yet_is_not_replayed_by_others(
    tmp_path: Path, tiny_bundle: Bundle
) -> None:
    path = held(tmp_path / "a.mcap", tiny_bundle, rules=3, runtime_version="9.8.7")
    with pytest.raises(UserError, match=r"by rules 3; .* knows up to 2: replay it with the 9\.8\.7 that made it"):
        replayed(path, tiny_bundle)
    done = command(
        "replay", path, "--bundle", tiny_bundle.path, "--allow-unsigned", env=os.environ | {"COLUMNS": "160"}
    )
    assert (done.returncode, "rules 3" in done.stderr, "Traceback" in done.stderr) == (EXIT_USER, True, False)


def test_after_a_reload_the_memory_starts_afresh(tmp_path: Path, tiny_bundle_path: Path) -> None:
    path = tmp_path / "a.mcap"
    first = msgspec.structs.replace(tiny_config(tiny_bundle_path), record=RecordConfig(str(path)))
    with driving(first) as (runtime, vehicle):
        vehicle.answer(240, "f1")
        vehicle.text("stop")
        vehicle.answer(240, "f2")
        fixed = ZmqSource(runtime.input_endpoints[0])
        runtime.reload(lambda: msgspec.structs.replace(first, source=(fixed,), record=None))  # refused
        vehicle.answer(240, "f3")
        runtime.reload(lambda: msgspec.structs.replace(first, source=(fixed,)))
        while vehicle.decisions[-1].reason != "camera missing":
            vehicle.read()
        assert not vehicle.answer(240, "f4").inputs["text"].present
    assert sum(isinstance(event, Session) for event in Recording(path).events()) == 2
    assert all(old == new for old, new in replayed(path, open_bundle(tiny_bundle_path, allow_unsigned=True)))


def test_each_part_is_replayed_by_the_bundle_that_decided_it(tmp_path: Path) -> None:
    first = tiny.write_bundle(tmp_path / "first")
    second = tiny.write_bundle(tmp_path / "second", scale=-1.0, version="2.0.0")
    path = tmp_path / "a.mcap"
    config = msgspec.structs.replace(tiny_config(first), record=RecordConfig(str(path)))
    with driving(config) as (runtime, vehicle):
        fixed = ZmqSource(runtime.input_endpoints[0])
        before = vehicle.answer(240, "f1")
        runtime.reload(lambda: msgspec.structs.replace(config, source=(fixed,), bundle=str(second)))
        while vehicle.decisions[-1].bundle.version != "2.0.0":
            vehicle.read()
        after = vehicle.answer(240, "f2")
        runtime.reload(lambda: msgspec.structs.replace(config, source=(fixed,)))
        while vehicle.decisions[-1].bundle.version != "1.0.0":
            vehicle.read()
        assert vehicle.answer(240, "f3").label == before.label != after.label
    wide = os.environ | {"COLUMNS": "160"}
    same = command("replay", path, "--allow-unsigned", "--check", env=wide)
    assert same.returncode == 0, same.stderr
    assert "tiny 1.0.0, then tiny 2.0.0, then tiny 1.0.0 (the recorded bundle)" in same.stderr
    for bundle in (first, second):
        other = command("replay", path, "--bundle", bundle, "--allow-unsigned", "--check", env=wide)
        assert other.returncode == EXIT_GATE, other.stderr
    shutil.rmtree(second)
    gone = command("replay", path, "--allow-unsigned", env=wide)
    assert (gone.returncode, "second" in gone.stderr, "Traceback" in gone.stderr) == (EXIT_USER, True, False)


def test_pipelines_of_parts_are_opened_one_at_a_time_and_closed(recorded: Recorded, tiny_bundle: Bundle) -> None:  # noqa: F811
    opened: list[Pipeline] = []
    closed: list[Pipeline] = []

    class Watched(Pipeline):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def open_pipeline(session: Session) -> Pipeline:
        assert closed == opened
        opened.append(Watched(tiny_bundle))
        return opened[-1]

    recording = Recording(recorded[0])
    events = list(recording.events())
    other = msgspec.structs.replace(recording.session, bundle_path="/another")
    recording.events = lambda: iter([*events, recording.session, other, *events])  # type: ignore[method-assign]
    pairs = list(replay(recording, open_pipeline))
    assert len(pairs) == 2 * sum(isinstance(event, DecisionMessage) for event in events)
    assert closed == opened and len(opened) == 3


def test_a_recording_played_live_is_recorded_again_and_replays(
    recorded: Recorded,  # noqa: F811
    tmp_path: Path,
    tiny_bundle: Bundle,
) -> None:
    path = tmp_path / "again.mcap"
    base = tiny_config(tiny_bundle.path, RecordingSource(str(recorded[0]), speed=0.5), stop_at_end=True)
    runtime = Runtime(msgspec.structs.replace(base, record=RecordConfig(str(path))))
    with running(runtime):
        runtime_ended(runtime)
    pairs = replayed(path, tiny_bundle)
    assert len(pairs) >= 3 and all(old == new for old, new in pairs)
    frames = [event.encoded for event in Recording(path).events() if hasattr(event, "encoded")]
    original = [event.encoded for event in Recording(recorded[0]).events() if hasattr(event, "encoded")]
    assert set(frames) <= set(original) and None not in frames


def runtime_ended(runtime: Runtime) -> None:
    from edge_runtime import Subscriber

    with Subscriber(runtime.decisions_endpoint) as subscriber:
        while subscriber.status is None or subscriber.status.state != "stopped":
            assert subscriber.receive(WAIT_S) is not None


def test_the_command_checks_writes_and_compares(recorded: Recorded, tmp_path: Path) -> None:  # noqa: F811
    path, _ = recorded
    lines = tmp_path / "decisions.jsonl"
    wide = os.environ | {"COLUMNS": "160"}
    assert command("replay", path).returncode == EXIT_USER  # the bundle is not signed
    paced = ("--speed", "20", "--backend", "onnxruntime")
    same = command("replay", path, "--allow-unsigned", "--check", "--out", lines, *paced, env=wide)
    assert same.returncode == 0, same.stderr
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert f"{len(answers)} identical, 0 changed" in same.stderr

    weaker = tiny.write_bundle(tmp_path / "weaker", scale=0.5, version="2.0.0")
    other = command("replay", path, "--bundle", weaker, "--allow-unsigned", env=wide)
    assert other.returncode == 0
    assert "recorded with tiny 1.0.0, another bundle" in other.stderr and "labels agree in" in other.stderr
    swapped = tiny.write_bundle(tmp_path / "swapped", scale=-1.0)
    refused = command("replay", path, "--bundle", swapped, "--allow-unsigned", "--check", env=wide)
    assert refused.returncode == EXIT_GATE
    assert "labels that changed" in refused.stderr
    assert "decision 0: " in refused.stderr and "another than the recorded one" in refused.stderr


def test_a_changed_recording_fails_the_check(recorded: Recorded, tiny_bundle: Bundle) -> None:  # noqa: F811
    """The comparison can fail: one bit of one probability is a difference, and named."""
    old, new = replayed(recorded[0], tiny_bundle)[0]
    label = next(iter(new.probabilities))
    nudged = new.probabilities | {label: new.probabilities[label] * (1 + 2**-52)}
    assert old.differences(msgspec.structs.replace(new, probabilities=nudged)) == ["probabilities"]


HERE = machine_kind()
ELSEWHERE = msgspec.structs.replace(HERE, architecture="riscv64")


@pytest.mark.parametrize(
    ("machine", "factor", "code", "says"),
    [
        (HERE, 1 + 1e-7, EXIT_GATE, "decision 0: "),
        (ELSEWHERE, 1 + 1e-7, 0, f"riscv64 there, {HERE.architecture} here"),
        (ELSEWHERE, 1.5, EXIT_GATE, "decision 0: "),
        (ELSEWHERE, -1.0, EXIT_GATE, "labels that changed"),
        (None, 1 + 1e-7, EXIT_GATE, "does not say on what kind of machine"),
        (None, 1.0, 0, " identical, 0 changed"),
    ],
)
def test_what_another_kind_of_machine_may_change(
    recorded: Recorded,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    machine: MachineKind | None,
    factor: float,
    code: int,
    says: str,
) -> None:
    """A bundle whose numbers are that much larger stands for the other machine's arithmetic."""
    path = remade(recorded[0], tmp_path / "made.mcap", {"machine": machine})
    other = tiny.write_bundle(tmp_path / "other", scale=factor)
    done = run_command(commands, ["replay", str(path), "--bundle", str(other), "--allow-unsigned", "--check"])
    told = capsys.readouterr().err
    assert done == code, told
    assert says in told


def test_a_tolerance_is_for_what_a_model_says_and_for_nothing_else(recorded: Recorded, tiny_bundle: Bundle) -> None:  # noqa: F811
    answer = next(new for _, new in replayed(recorded[0], tiny_bundle) if new.source == "model")
    seen = (Detection("car", 0.5, (0.1, 0.2, 0.3, 0.4), track=7),)
    answer = msgspec.structs.replace(answer, reason="abstained: stop 0.49 < 0.50", values={"t": 200.0}, detections=seen)
    state = next(iter(answer.inputs))
    moved = {
        "seq": answer.seq + 1,
        "taken_ns": answer.taken_ns + 1,
        "label": "other",
        "confidence": answer.confidence + 0.002,
        "values": {"t": 200.3},
        "reason": "abstained: dark 0.49 < 0.50",
        "inputs": answer.inputs | {state: msgspec.structs.replace(answer.inputs[state], age_ms=1e-9)},
        "detections": (msgspec.structs.replace(seen[0], track=8),),
        "probabilities": {},
    }
    for name, value in moved.items():
        assert answer.differences(msgspec.structs.replace(answer, **{name: value}), 1e-3) == [name]
    near = msgspec.structs.replace(
        answer,
        confidence=answer.confidence + 0.0009,
        reason="abstained: stop 0.48 < 0.50",
        values={"t": 200.1},
        detections=(msgspec.structs.replace(seen[0], score=0.5009, box=(0.1, 0.2, 0.3, 0.4001)),),
    )
    assert answer.differences(near, 1e-3) == []
    assert set(answer.differences(near)) == {"confidence", "reason", "values", "detections"}


CONFIG = """
name = "svc"
bundle = "{bundle}"
allow_unsigned = true
stop_at_end = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "{kind}"
bind = "ipc://{folder}/in"
{more}
"""


def test_record_ends_cleanly_on_a_signal_or_in_time_and_overwrites_nothing(
    tmp_path: Path, tiny_bundle_path: Path
) -> None:
    config, path = tmp_path / "svc.toml", tmp_path / "drive.mcap"
    config.write_text(CONFIG.format(bundle=tiny_bundle_path, folder=tmp_path, kind="zmq", more=""))
    line = [sys.executable, "-m", "edge_runtime", "record", str(config), "-o", str(path)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "decisions at" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()
    recording = Recording(path)
    assert sum(isinstance(event, DecisionMessage) for event in recording.events()) >= 1 and not recording.cut
    again = command("record", config, "-o", path, "--seconds", "0.3")
    assert (again.returncode, "is there already" in again.stderr) == (EXIT_USER, True)
    timed = command("record", config, "-o", tmp_path / "timed.mcap", "--seconds", "0.3")
    assert timed.returncode == 0, timed.stderr
    assert not Recording(tmp_path / "timed.mcap").cut


def test_a_drive_through_the_built_in_world_replays_bit_for_bit(tmp_path: Path) -> None:
    config, path = tmp_path / "car.toml", tmp_path / "drive.mcap"
    text = CONFIG.format(bundle="shipped:vehicle", folder=tmp_path, kind="world", more="seed = 3\nduration_s = 2.0\n")
    config.write_text(text + f'[[sink]]\nkind = "recording"\npath = "{path}"\n[engine]\nbackend = "onnxruntime"\n')
    run = command("run", config)
    assert run.returncode == 0, run.stderr
    checked = command("replay", path, "--allow-unsigned", "--check")
    assert checked.returncode == 0, checked.stderr
    decisions = [event for event in Recording(path).events() if isinstance(event, DecisionMessage)]
    assert sum(one.source == "model" for one in decisions) > 10


def _opened_on_its_word(recorded: Recorded, path: str) -> Path:  # noqa: F811
    session = Recording(recorded[0]).session
    return recorded_bundle(msgspec.structs.replace(session, bundle_path=path))


def test_a_bundle_that_a_recording_names_is_opened_only_where_nobody_else_could_have_put_it(
    recorded: Recorded,  # noqa: F811
    tmp_path: Path,
) -> None:
    mine = tiny.write_bundle(tmp_path / "safe" / "bundle")
    (tmp_path / "safe").chmod(0o755)
    mine.chmod(0o755)
    assert _opened_on_its_word(recorded, str(mine)) == mine
    mine.chmod(0o777)
    with pytest.raises(UserError, match="not opened on its word: other users may write it; name .* --bundle"):
        _opened_on_its_word(recorded, str(mine))
    mine.chmod(0o755)
    (tmp_path / "safe").chmod(0o777)
    with pytest.raises(UserError, match=r"not opened on its word: others may write in .*/safe above it"):
        _opened_on_its_word(recorded, str(mine))
    for path in (str(tmp_path / "none" / "there"), "a\0b"):
        with pytest.raises(UserError, match="not opened on its word"):
            _opened_on_its_word(recorded, path)
    assert _opened_on_its_word(recorded, "shipped:vehicle") == bundles.bundle_path("shipped:vehicle")


def test_built_engines_are_never_loaded_from_where_a_recording_says(recorded: Recorded, tmp_path: Path) -> None:  # noqa: F811
    session = Recording(recorded[0]).session
    told = msgspec.structs.replace(session, engine=EngineConfig("tensorrt", threads=3, cache=str(tmp_path / "theirs")))
    assert recorded_engine(told, None) == EngineConfig("tensorrt", threads=3)
    assert recorded_engine(told, tmp_path / "mine").cache == str(tmp_path / "mine")


def test_another_bundle_in_the_place_of_the_recorded_one_is_not_taken_for_it(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "bundle")
    path = tmp_path / "drive.mcap"
    with driving(msgspec.structs.replace(tiny_config(bundle), record=RecordConfig(str(path)))) as (_, vehicle):
        vehicle.answer(90, "f")
    assert command("replay", path, "--allow-unsigned", "--check").returncode == 0
    shutil.rmtree(bundle)
    tiny.write_bundle(bundle, scale=0.5, version="2.0.0")
    refused = command("replay", path, "--allow-unsigned", env=os.environ | {"COLUMNS": "400"})
    assert refused.returncode == EXIT_USER
    assert "is not the one that was recorded, tiny 1.0.0" in refused.stderr
    assert command("replay", path, "--bundle", bundle, "--allow-unsigned").returncode == 0
