from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from edge_runtime.align import align
from edge_runtime.bundle import MANIFEST, Bundle, EngineFile, SideHead, Stage, StageInput, encode_manifest, open_bundle
from edge_runtime.config import EngineConfig
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer import BACKENDS
from edge_runtime.infer.engine import Backend, Compiled, Engine
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.infer.stages import SliceTensors, StageGraph
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Slice, Tensors, Utterance
from edge_runtime.streams import NS_PER_MS, preprocessors
from edge_runtime.tensors import TensorSpec
from tests import tiny
from tests.conftest import noise


def tensors_of(bundle: Bundle) -> SliceTensors:
    preprocess = preprocessors(tiny.STREAMS, bundle.read)
    return lambda stream, part: preprocess[stream](part)


def graph(bundle: Bundle, cache: bool = True) -> StageGraph:
    return StageGraph(bundle, tensors_of(bundle), cache=cache)


def at(now_ms: int, *messages: Message) -> AlignedSet:
    history = {name: [m for m in messages if m.stream == name] for name in tiny.STREAMS}
    return align(tiny.STREAMS, history, now_ms * NS_PER_MS, now_ms * NS_PER_MS)


def frame(seq: int, brightness: int, at_ms: int = 0) -> Frame:
    return Frame("camera", seq, at_ms * NS_PER_MS, np.full((tiny.HEIGHT, tiny.WIDTH, 3), brightness, np.uint8))


def test_the_graph_gives_the_answer_worked_out_by_hand(tiny_bundle: Bundle) -> None:
    stop = Utterance("text", 0, 0, "please stop now")
    sensors = Sample("sensors", 0, 0, {"a": 5.0})
    with_all = graph(tiny_bundle).run(at(0, frame(0, 51), stop, sensors)).output
    assert with_all is not None
    # brightness 51/255 = 0.2; "stop" is there; a = (5 - 1) / 2 = 2
    assert with_all[0] == pytest.approx([0.8, 3.2, 9.0, 4.0], abs=1e-5)


def test_an_absent_stream_runs_nothing_and_contributes_nothing(tiny_bundle: Bundle) -> None:
    inference = graph(tiny_bundle).run(at(0, frame(0, 51)))
    assert inference.output is not None
    assert inference.output[0] == pytest.approx([0.8, 3.2, 0.0, 0.0], abs=1e-5)
    assert (inference.stage_ns["text"], inference.stage_ns["sensors"]) == (0, 0)
    assert inference.stage_ns["vision"] > 0


def test_a_stage_runs_only_when_its_input_is_new(tiny_bundle: Bundle) -> None:
    stages = graph(tiny_bundle)
    text = Utterance("text", 0, 0, "stop")
    stages.run(at(0, frame(0, 9), text))
    again = stages.run(at(1, frame(1, 9, 1), text))
    assert again.stage_ns["text"] == 0 and again.stage_ns["vision"] > 0
    same = stages.run(at(2, frame(1, 9, 1), text))
    assert set(same.stage_ns.values()) == {0}


def test_what_other_streams_give_is_ready_before_the_frame(tiny_bundle: Bundle, tmp_path: Path) -> None:
    asked: list[str] = []
    made = tensors_of(tiny_bundle)

    def counted(stream: str, part: Slice) -> Tensors:
        asked.append(stream)
        return made(stream, part)

    text, sample = Utterance("text", 0, 0, "stop"), Sample("sensors", 0, 0, {"a": 5.0})
    whole = compose_monolith(stage_graphs(tiny_bundle)).SerializeToString()
    for path in (tiny_bundle.path, monolith_bundle(tiny_bundle, whole, tmp_path / "whole")):
        stages = StageGraph(open_bundle(path, allow_unsigned=True), counted)
        asked.clear()
        stages.prefetch(at(1, text, sample), ("text", "sensors"))
        assert asked == ["text", "sensors"]
        inference = stages.run(at(1, frame(0, 51), text, sample))
        assert asked == ["text", "sensors", "camera"]
        assert inference.output is not None
        assert inference.output[0] == pytest.approx([0.8, 3.2, 9.0, 4.0], abs=1e-5)
        asked.clear()
        stages.forget()
        stages.prefetch(at(1, text), ("text", "sensors"))
        assert asked == ["text"], "an absent stream has nothing to prepare"


step = st.tuples(st.sampled_from(["frame", "text", "sample", "nothing"]), st.integers(0, 255), st.integers(0, 200))


@settings(max_examples=30)
@given(st.lists(step, min_size=1, max_size=25))
def test_cached_features_give_exactly_what_running_everything_gives(steps: list[tuple[str, int, int]]) -> None:
    bundle = _session_bundle()
    cached, plain = _session_graphs(bundle)
    cached.forget()
    messages: list[Message] = []
    now = 0
    for seq, (what, value, wait) in enumerate(steps):
        now += wait
        if what == "frame":
            messages.append(frame(seq, value, now))
        elif what == "text":
            messages.append(Utterance("text", seq, now * NS_PER_MS, tiny.SENTENCES[value % len(tiny.SENTENCES)]))
        elif what == "sample":
            messages.append(Sample("sensors", seq, now * NS_PER_MS, {"a": float(value % 90)}))
        aligned = at(now, *messages)
        one, other = cached.run(aligned).output, plain.run(aligned).output
        assert one is not None and other is not None
        assert np.array_equal(one, other)


_SHARED: dict[str, object] = {}


def _session_bundle() -> Bundle:
    """hypothesis runs the body many times; one bundle serves them all."""
    if "bundle" not in _SHARED:
        import tempfile

        _SHARED["bundle"] = open_bundle(tiny.write_bundle(Path(tempfile.mkdtemp()) / "tiny"), allow_unsigned=True)
    return _SHARED["bundle"]  # type: ignore[return-value]


def _session_graphs(bundle: Bundle) -> tuple[StageGraph, StageGraph]:
    if "graphs" not in _SHARED:
        _SHARED["graphs"] = (graph(bundle), graph(bundle, cache=False))
    return _SHARED["graphs"]  # type: ignore[return-value]


def test_features_die_with_their_engines(tiny_bundle: Bundle) -> None:
    stages = graph(tiny_bundle)
    aligned = at(0, frame(0, 9))
    stages.run(aligned)
    stages.open()
    assert stages.run(aligned).stage_ns["vision"] > 0


def test_a_closed_graph_does_not_answer(tiny_bundle: Bundle) -> None:
    stages = graph(tiny_bundle)
    stages.close()
    stages.close()
    with pytest.raises(EngineError):
        stages.run(at(0, frame(0, 9)))


def test_a_graph_that_does_not_meet_its_manifest_is_refused(tmp_path: Path) -> None:
    wrong = list(tiny.stages())
    five = SoftmaxHead((*tiny.LABELS, "low"), "stage:fusion:logits")
    wrong[3] = type(wrong[3])(
        "fusion", wrong[3].inputs, (type(wrong[3].outputs[0])("logits", "float32", (1, 5)),), wrong[3].files
    )
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", stages=tuple(wrong), head=five), allow_unsigned=True)
    with pytest.raises(BundleError, match=r"the manifest's output 'logits' is float32\[1, 5\]"):
        graph(bundle)


def test_pictures_of_any_size_are_brought_to_the_model_s(tiny_bundle: Bundle) -> None:
    big = Frame("camera", 0, 0, noise(100, 3, (480, 640)))
    output = graph(tiny_bundle).run(at(0, big)).output
    assert output is not None
    assert output[0, 0] == pytest.approx(4 * 100 / 255, abs=0.1)


def test_stages_that_do_not_wait_for_one_another_run_side_by_side(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = graph(tiny_bundle)
    order: list[str] = []
    start, finish = Engine.start, Engine.finish

    def started(engine: Engine, tensors: Tensors) -> None:
        order.append(f"start {engine.name}")
        start(engine, tensors)

    def finished(engine: Engine) -> Tensors:
        order.append(f"finish {engine.name}")
        return finish(engine)

    monkeypatch.setattr(Engine, "start", started)
    monkeypatch.setattr(Engine, "finish", finished)
    messages = (frame(0, 9), Utterance("text", 0, 0, "stop"), Sample("sensors", 0, 0, {"a": 5.0}))
    stages.run(at(0, *messages))
    encoders = ["vision", "text", "sensors"]
    expected = [f"{what} {name}" for what in ("start", "finish") for name in encoders]
    assert order == [*expected, "start fusion", "finish fusion"]


class Watched:
    """What engines and the streams' preprocessing are asked for, while a graph works as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
        self.started: list[str] = []
        self.closed: list[str] = []
        self.prepared: list[str] = []
        start, close, make = Engine.start, Engine.close, tensors_of(bundle)

        def started(engine: Engine, tensors: Tensors) -> None:
            self.started.append(engine.name)
            start(engine, tensors)

        def closed(engine: Engine) -> None:
            self.closed.append(engine.name)
            close(engine)

        def prepared(stream: str, part: Slice) -> Tensors:
            self.prepared.append(stream)
            return make(stream, part)

        monkeypatch.setattr(Engine, "start", started)
        monkeypatch.setattr(Engine, "close", closed)
        self.tensors_of: SliceTensors = prepared

    def forget(self) -> None:
        for seen in (self.started, self.closed, self.prepared):
            seen.clear()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> Watched:
    return Watched(monkeypatch, tiny_bundle)


ALL = (frame(0, 51), Utterance("text", 0, 0, "stop"), Sample("sensors", 0, 0, {"a": 5.0}))
STAGES = ["vision", "text", "sensors", "fusion"]


def test_without_the_cache_everything_is_made_and_run_every_time(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of, cache=False)
    watched.forget()
    for _ in range(2):
        inference = stages.run(at(0, *ALL))
        assert all(spent > 0 for spent in inference.stage_ns.values())
    assert watched.started == STAGES * 2
    # `ids` and `mask` each ask for the sentence's tensors, `window` and `mask` for the readings'.
    assert Counter(watched.prepared) == {"camera": 2, "text": 4, "sensors": 4}


def test_with_it_what_is_the_same_is_made_once_and_costs_no_time(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    watched.forget()
    first = stages.run(at(0, *ALL))
    assert first.preprocess_ns > 0 and all(spent > 0 for spent in first.stage_ns.values())
    again = stages.run(at(0, *ALL))
    assert (watched.started, Counter(watched.prepared)) == (STAGES, {"camera": 1, "text": 1, "sensors": 1})
    assert again.preprocess_ns == 0 and set(again.stage_ns.values()) == {0}
    assert np.array_equal(again.output, first.output)  # type: ignore[arg-type]
    stages.run(at(1, frame(1, 60, 1), *ALL[1:]))
    assert watched.started == [*STAGES, "vision", "fusion"]
    assert watched.prepared[3:] == ["camera"]


def test_presence_alone_makes_the_fusion_run_again(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    stages.run(at(0, *ALL))
    watched.forget()
    output = stages.run(at(0, *ALL[:2])).output
    assert watched.started == ["fusion"]
    assert output is not None and output[0] == pytest.approx([0.8, 3.2, 9.0, 0.0], abs=1e-5)


def test_prefetch_runs_what_the_others_feed_once_and_nothing_else(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    watched.forget()
    for _ in range(2):
        stages.prefetch(at(0, *ALL[1:]), ("text", "sensors"))
    assert (watched.started, watched.prepared) == (["text", "sensors"], ["text", "sensors"])
    inference = stages.run(at(0, *ALL))
    assert watched.started == ["text", "sensors", "vision", "fusion"]
    assert {name: spent > 0 for name, spent in inference.stage_ns.items()} == {
        "vision": True,
        "text": False,
        "sensors": False,
        "fusion": True,
    }
    newer = (Utterance("text", 1, NS_PER_MS, "go"), ALL[2])
    stages.prefetch(at(1, *newer), ("text", "sensors"))
    assert watched.started[4:] == ["text"], "only what has something new"
    stages.prefetch(at(1, ALL[0], *newer), ("text",))
    assert watched.started[5:] == [], "a stage of streams that were not named is left"


def test_prefetch_runs_no_stage_that_reads_another_stream_or_another_stage(
    tiny_bundle: Bundle, watched: Watched, tmp_path: Path
) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    watched.forget()
    stages.prefetch(at(0, *ALL), ("text",))
    assert (watched.started, watched.prepared) == (["text"], ["text"])
    whole = compose_monolith(stage_graphs(tiny_bundle)).SerializeToString()
    monolith = open_bundle(monolith_bundle(tiny_bundle, whole, tmp_path / "whole"), allow_unsigned=True)
    stages = StageGraph(monolith, watched.tensors_of)
    watched.forget()
    stages.prefetch(at(0, *ALL[1:]), ("text", "sensors"))
    assert (watched.started, watched.prepared) == ([], ["text", "sensors"])
    # A stage is not taken for the stream that it is called like.
    stages = StageGraph(with_follower(tmp_path / "b"), watched.tensors_of)
    watched.forget()
    stages.prefetch(at(0, *ALL[1:]), ("text", "sensors"))
    assert watched.started == ["text", "sensors"]
    output = stages.run(at(0, *ALL)).output
    assert output is not None and output[0] == pytest.approx([0.8, 3.2, 9.0, 4.0], abs=1e-5)
    assert Counter(watched.started) == dict.fromkeys([*STAGES, "same"], 1)


def test_engines_are_warm_and_named_when_the_graph_is_there(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    assert Counter(watched.started) == dict.fromkeys(STAGES, 3)
    assert stages.backends == dict.fromkeys(STAGES, "onnxruntime")
    assert stages.precisions == dict.fromkeys(STAGES, "fp32")
    stages.close()
    assert watched.closed == STAGES
    assert (stages.backends, stages.precisions) == ({}, {})
    stages.open()
    assert watched.closed == STAGES, "what is closed is not closed again"
    stages.open()
    assert watched.closed == STAGES * 2, "and what is open is, before it is opened anew"


def test_a_graph_that_does_not_open_leaves_nothing_open(tmp_path: Path, watched: Watched) -> None:
    broken = list(tiny.stages())
    broken[2] = msgspec.structs.replace(broken[2], outputs=(TensorSpec("features", "float32", (1, 3)),))
    inputs = list(broken[3].inputs)
    inputs[2] = msgspec.structs.replace(inputs[2], shape=(1, 3))
    broken[3] = msgspec.structs.replace(broken[3], inputs=tuple(inputs))
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", stages=tuple(broken)), allow_unsigned=True)
    with pytest.raises(BundleError, match="sensors"):
        StageGraph(bundle, watched.tensors_of)
    assert watched.closed == ["vision", "text"]


def test_the_plan_is_the_manifest_s_unless_one_is_given(tmp_path: Path) -> None:
    """The second precision of the fusion doubles its answer: which one runs can be seen."""
    doubled = tiny.fusion_graph(2.0)
    path = tiny.write_bundle(tmp_path / "b")
    manifest = open_bundle(path, allow_unsigned=True).manifest
    (path / "stages" / "fusion.int8.onnx").write_bytes(doubled)
    *encoders, fusion = manifest.stages
    files = manifest.files | {"stages/fusion.int8.onnx": hashlib.sha256(doubled).hexdigest()}
    both = msgspec.structs.replace(fusion, files={**fusion.files, "int8": "stages/fusion.int8.onnx"})
    default = manifest.precision["default"]
    plans = {"default": default, "onnxruntime": default | {"fusion": "int8"}}
    changed = msgspec.structs.replace(manifest, stages=(*encoders, both), files=files, precision=plans)
    (path / MANIFEST).write_bytes(encode_manifest(changed))
    bundle = open_bundle(path, allow_unsigned=True)
    for plan, precision, factor in ((None, "int8", 2), (default, "fp32", 1)):
        stages = StageGraph(bundle, tensors_of(bundle), plan=plan)
        assert stages.precisions == default | {"fusion": precision}
        output = stages.run(at(0, *ALL)).output
        assert output is not None and output[0] == pytest.approx(
            [0.8 * factor, 3.2 * factor, 9.0 * factor, 4.0 * factor]
        )
        stages.close()


def test_every_head_s_output_is_given_by_its_name(tmp_path: Path) -> None:
    side = SideHead("raw", SoftmaxHead(("x", "y"), "stage:vision:features"), DecisionPolicy("x"))
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", side_heads=(side,)), allow_unsigned=True)
    inference = graph(bundle).run(at(0, *ALL))
    assert set(inference.side) == {"raw"}
    assert inference.side["raw"].dtype == np.float32
    assert inference.side["raw"][0] == pytest.approx([0.2, 0.8], abs=1e-5)
    assert inference.output is not None and inference.output.dtype == np.float32


def test_stages_that_nothing_feeds_answer_zeros_of_their_shape(tiny_bundle: Bundle, watched: Watched) -> None:
    stages = StageGraph(tiny_bundle, watched.tensors_of)
    watched.forget()
    output = stages.run(at(0)).output
    assert watched.started == ["fusion"] and watched.prepared == []
    assert output is not None and output.tolist() == [[0.0, 0.0, 0.0, 0.0]]


class Device(Backend):
    """Another back end's name on ONNX Runtime's engines; may fail to open them."""

    name = "tensorrt"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.closed = fails, 0
        self.ahead: dict[str, Sequence[Compiled]] = {}

    def open_engine(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        ahead_of_time: Sequence[Compiled] = (),
    ) -> Engine:
        self.ahead[name] = ahead_of_time
        if self.fails and name == "text":
            raise EngineError("text: the device is gone")
        return OnnxRuntimeEngine(name, precision, model, inputs, outputs)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setitem(BACKENDS, "tensorrt", lambda settings: device)
    return device


def test_where_a_device_s_engines_do_not_open_the_cpu_takes_over_only_if_it_may(
    tiny_bundle: Bundle, device: Device, watched: Watched
) -> None:
    device.fails = True
    stages = StageGraph(tiny_bundle, watched.tensors_of, EngineConfig("auto"))
    assert set(stages.backends.values()) == {"onnxruntime"}
    assert (device.closed, watched.closed) == (1, ["vision"]), "nothing of the device's is left open"
    assert stages.run(at(0, *ALL)).output is not None
    for asked in (EngineConfig("tensorrt"), EngineConfig("auto", fallback=False)):
        with pytest.raises(EngineError, match="the device is gone"):
            StageGraph(tiny_bundle, watched.tensors_of, asked)
    device.fails = False
    opened = StageGraph(tiny_bundle, watched.tensors_of, EngineConfig("auto"))
    assert set(device.ahead) == set(STAGES) and device.closed == 3
    device.ahead.clear()
    opened.open(on_cpu=True)
    assert (device.ahead, device.closed) == ({}, 4), "asked for by name, the CPU it is"
    opened.open()
    assert set(device.ahead) == set(STAGES)
    opened.close()
    opened.close()
    assert device.closed == 5


def test_engines_made_ahead_of_time_are_offered_to_the_stage_and_precision_they_are_for(
    tmp_path: Path, device: Device
) -> None:
    path = tiny.write_bundle(tmp_path / "b")
    manifest = open_bundle(path, allow_unsigned=True).manifest
    (path / "made.engine").write_bytes(b"engine")
    engines = tuple(
        EngineFile(stage, precision, "tensorrt", "10.3", ("8.7",), "", "made.engine")
        for stage, precision in (("vision", "fp32"), ("text", "fp32"), ("text", "int8"))
    )
    files = manifest.files | {"made.engine": hashlib.sha256(b"engine").hexdigest()}
    bundle = Bundle(path, msgspec.structs.replace(manifest, engines=engines, files=files), "digest", None)
    StageGraph(bundle, tensors_of(bundle), EngineConfig("tensorrt")).close()
    offered = {name: [one.file for one in ahead] for name, ahead in device.ahead.items()}
    assert offered == {"vision": [engines[0]], "text": [engines[1]], "sensors": [], "fusion": []}
    assert device.ahead["text"][0].read() == b"engine"


def test_a_stage_s_time_is_its_start_and_its_end_and_its_tensors_are_told_apart(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.004
    start, finish, make = Engine.start, Engine.finish, tensors_of(tiny_bundle)
    stages = StageGraph(tiny_bundle, lambda stream, part: [time.sleep(pause_s), make(stream, part)][1])

    def started(engine: Engine, tensors: Tensors) -> None:
        time.sleep(pause_s)
        start(engine, tensors)

    def finished(engine: Engine) -> Tensors:
        time.sleep(pause_s)
        return finish(engine)

    monkeypatch.setattr(Engine, "start", started)
    monkeypatch.setattr(Engine, "finish", finished)
    begin = time.perf_counter_ns()
    inference = stages.run(at(0, *ALL))
    elapsed_ns = time.perf_counter_ns() - begin
    assert all(spent >= 2 * pause_s * 1e9 for spent in inference.stage_ns.values())
    assert inference.preprocess_ns >= 3 * pause_s * 1e9
    assert sum(inference.stage_ns.values()) + inference.preprocess_ns <= elapsed_ns


def with_presence(folder: Path) -> Bundle:
    """The sensors' stage reads the presence too, and gives that of the camera and of the sentence."""
    nodes = [helper.make_node("Slice", ["presence", "start", "end", "axes"], ["features"])]
    constants = {"start": np.array([0]), "end": np.array([2]), "axes": np.array([1])}
    inputs = {name: (TensorProto.FLOAT, [1, tiny.STEPS, 2]) for name in ("window", "mask")}
    inputs["presence"] = (TensorProto.FLOAT, [1, 3])
    model = tiny.graph("sensors", nodes, inputs, {"features": (TensorProto.FLOAT, [1, 2])}, constants)
    path = tiny.write_bundle(folder)
    manifest = open_bundle(path, allow_unsigned=True).manifest
    vision, text, sensors, fusion = manifest.stages
    sensors = msgspec.structs.replace(
        sensors, inputs=(*sensors.inputs, StageInput("presence", "float32", (1, 3), "presence"))
    )
    (path / "stages" / "sensors.fp32.onnx").write_bytes(model)
    files = manifest.files | {"stages/sensors.fp32.onnx": hashlib.sha256(model).hexdigest()}
    changed = msgspec.structs.replace(manifest, stages=(vision, text, sensors, fusion), files=files)
    (path / MANIFEST).write_bytes(encode_manifest(changed))
    return open_bundle(path, allow_unsigned=True)


def with_follower(folder: Path) -> Bundle:
    """A stage `same` between the sentence's and the fusion: it gives what it reads."""
    nodes = [helper.make_node("Identity", ["before"], ["features"])]
    features = (TensorProto.FLOAT, [1, 2])
    model = tiny.graph("same", nodes, {"before": features}, {"features": features}, {})
    path = tiny.write_bundle(folder)
    manifest = open_bundle(path, allow_unsigned=True).manifest
    vision, text, sensors, fusion = manifest.stages
    file = "stages/same.fp32.onnx"
    read = (StageInput("before", "float32", (1, 2), "stage:text:features"),)
    same = Stage("same", read, text.outputs, {"fp32": file})
    inputs = tuple(
        msgspec.structs.replace(item, source="stage:same:features") if item.name == "text" else item
        for item in fusion.inputs
    )
    (path / file).write_bytes(model)
    changed = msgspec.structs.replace(
        manifest,
        stages=(vision, text, sensors, same, msgspec.structs.replace(fusion, inputs=inputs)),
        precision={"default": dict.fromkeys((*STAGES, "same"), "fp32")},
        files=manifest.files | {file: hashlib.sha256(model).hexdigest()},
    )
    (path / MANIFEST).write_bytes(encode_manifest(changed))
    return open_bundle(path, allow_unsigned=True)


def test_what_reads_the_presence_too_runs_when_it_changes_and_never_ahead(tmp_path: Path, watched: Watched) -> None:
    stages = StageGraph(with_presence(tmp_path / "b"), watched.tensors_of)
    watched.forget()
    stages.prefetch(at(0, ALL[2]), ("sensors",))
    assert watched.started == []
    high = []
    for messages in (ALL[2:], ALL[1:], ALL, ALL):
        output = stages.run(at(0, *messages)).output
        assert output is not None
        high.append(float(output[0, 3]))
    # The label `high` is twice the stage's first feature: whether the camera is there.
    assert high == [0.0, 0.0, 2.0, 2.0]
    assert Counter(watched.started)["sensors"] == 3, "a sentence that comes is another presence too"


def test_a_graph_that_names_files_outside_its_bundle_is_not_opened(tmp_path: Path, device: Device) -> None:
    model = onnx.load_from_string(tiny.vision_graph())
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    path = tiny.write_bundle(tmp_path / "b")
    manifest = open_bundle(path, allow_unsigned=True).manifest
    data = model.SerializeToString()
    (path / "stages" / "vision.fp32.onnx").write_bytes(data)
    files = manifest.files | {"stages/vision.fp32.onnx": hashlib.sha256(data).hexdigest()}
    (path / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files)))
    bundle = open_bundle(path, allow_unsigned=True)
    with pytest.raises(BundleError):
        StageGraph(bundle, tensors_of(bundle), EngineConfig("tensorrt"))
    assert device.ahead == {}, "no back end has seen it"
