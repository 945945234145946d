from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from edge_runtime.bundle import MANIFEST, Bundle, SideHead, encode_manifest, open_bundle, parse_manifest
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, UserError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.regression import RegressionHead, Value
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer import BACKENDS
from edge_runtime.infer.engine import Backend, Engine
from edge_runtime.infer.stages import StageGraph
from edge_runtime.messages import Frame, Inference, Sample, Tensors, Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import NS_PER_MS
from edge_runtime.tensors import TensorSpec
from tests import tiny
from tests.test_several_streams import FRONT, REAR, write_bundle


def frame(seq: int, brightness: int, at_ms: int) -> Frame:
    return Frame("camera", seq, at_ms * NS_PER_MS, np.full((tiny.HEIGHT, tiny.WIDTH, 3), brightness, np.uint8))


def test_it_decides_from_what_it_was_given(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(frame(0, 250, 0))
    assert pipeline.decide(0, 0).verdict.label == "bright"
    pipeline.add(Utterance("text", 0, 5 * NS_PER_MS, "please stop now"))
    pipeline.add(frame(1, 250, 10))
    assert pipeline.decide(10 * NS_PER_MS, 10 * NS_PER_MS).verdict.label == "stop"
    pipeline.close()
    pipeline.close()


def test_without_its_required_camera_it_is_safe_and_asks_no_model(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(Sample("sensors", 0, 0, {"a": 1.0}))
    outcome = pipeline.decide(0, 0)
    assert (outcome.verdict.source, outcome.verdict.reason) == ("safe", "camera missing")
    assert not outcome.inference.stage_ns
    asked = pipeline.decide(0, 0, blocking=False)
    assert asked.verdict.source == "model"


def test_a_stale_camera_is_named(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(frame(0, 250, 0))
    late = 301 * NS_PER_MS
    assert pipeline.decide(late, late).verdict.reason == "camera stale"


def test_what_needs_the_sensors_is_not_said_without_them_unless_only_the_model_is_asked(tmp_path: Path) -> None:
    policy = DecisionPolicy("stop", needs={"bright": ("sensors",)})
    pipeline = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "b", policy=policy), allow_unsigned=True))
    pipeline.add(frame(0, 250, 0))
    outcome = pipeline.decide(0, 0)
    assert (outcome.verdict.label, outcome.verdict.reason) == ("stop", "bright needs sensors: missing")
    assert pipeline.decide(0, 0, blocking=False).verdict.label == "bright"
    pipeline.add(Sample("sensors", 0, 0, {"a": 1.0, "b": 1.0}))
    assert pipeline.decide(0, 0).verdict.label == "bright"
    pipeline.add(frame(1, 5, 1))
    assert pipeline.decide(NS_PER_MS, NS_PER_MS).verdict.label == "dark"
    pipeline.close()


def test_reset_forgets_messages_features_and_hysteresis(tmp_path: Path) -> None:
    policy = DecisionPolicy("stop", hold=3)
    pipeline = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "b", policy=policy), allow_unsigned=True))
    pipeline.add(frame(0, 250, 0))
    assert pipeline.decide(0, 0).verdict.label == "bright"
    pipeline.reset()
    pipeline.add(frame(0, 5, 0))
    assert pipeline.decide(0, 0).verdict.label == "dark"


@pytest.mark.parametrize(("rules", "label"), [(1, "dark"), (2, "bright")])
def test_heartbeats_count_as_the_rules_say_that_a_recording_was_made_by(tmp_path: Path, rules: int, label: str) -> None:
    policy = DecisionPolicy("stop", hold=2)
    pipeline = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "b", policy=policy), allow_unsigned=True))
    pipeline.reset(rules)
    for seq, brightness in enumerate((250, 5)):
        pipeline.add(frame(seq, brightness, 10 * seq))
        pipeline.decide(10 * seq * NS_PER_MS, 10 * seq * NS_PER_MS)
    assert pipeline.decide(20 * NS_PER_MS, 20 * NS_PER_MS, heartbeat=True).verdict.label == label


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_an_engine_without_finite_answers_is_safe_and_restarted_ever_more_slowly(tmp_path: Path, scale: float) -> None:
    pipeline = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "b", scale=scale), allow_unsigned=True))
    restarts = []
    for step in range(200):
        at_ms = 100 * step
        pipeline.add(frame(step, 200, at_ms))
        outcome = pipeline.decide(at_ms * NS_PER_MS, at_ms * NS_PER_MS)
        assert outcome.verdict.source == "safe"
        assert outcome.verdict.reason is not None and "not finite" in outcome.verdict.reason
        restarts.append(pipeline.engine_restarts)
    assert pipeline.down is not None
    # 20 s: at 0.1, 1.1, 3.1, 7.1 and 15.1 s
    assert restarts[-1] == 5


def test_every_head_says_its_own_and_only_the_first_acts(tmp_path: Path) -> None:
    """The fusion's four numbers read twice: as labels, with a policy that holds, and as values."""
    values = tuple(Value(name, "1", -1.0, 12.0, safe=-1.0) for name in tiny.LABELS)
    sides = (
        SideHead("held", SoftmaxHead(tiny.LABELS, "stage:fusion:logits"), DecisionPolicy("stop", hold=3)),
        SideHead("raw", RegressionHead(values, "stage:fusion:logits"), DecisionPolicy()),
    )
    pipeline = Pipeline(open_bundle(tiny.write_bundle(tmp_path / "b", side_heads=sides), allow_unsigned=True))
    blocked = pipeline.decide(0, 0)
    assert {one.reason for one in (blocked.verdict, *blocked.side.values())} == {"camera missing"}
    assert blocked.side["raw"].values == dict.fromkeys(tiny.LABELS, -1.0)
    said = []
    for seq, brightness in enumerate((250, 5, 5, 5)):
        pipeline.add(frame(seq, brightness, 10 * seq))
        outcome = pipeline.decide(10 * seq * NS_PER_MS, 10 * seq * NS_PER_MS)
        said.append((outcome.verdict.label, outcome.side["held"].label))
        assert isinstance(outcome.side["raw"].values, dict) and outcome.inference.output is not None
        assert list(outcome.side["raw"].values.values()) == pytest.approx(outcome.inference.output[0].tolist())
    assert said == [("bright", "bright"), ("dark", "bright"), ("dark", "bright"), ("dark", "dark")]
    pipeline.reset()
    pipeline.add(frame(0, 5, 0))
    assert pipeline.decide(0, 0).side["held"].label == "dark", "a reset forgets every head's hysteresis"
    pipeline.close()


class Trouble:
    """Makes the text stage's engine fail on demand, and opening them too; counts what runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = self.stays_shut = False
        self.started: list[str] = []
        self.opened: list[bool] = []
        start, open_again = Engine.start, StageGraph.open

        def started(engine: Engine, tensors: Tensors) -> None:
            self.started.append(engine.name)
            if self.fails and engine.name == "text":
                raise EngineError("text: the device is gone")
            start(engine, tensors)

        def opened(stages: StageGraph, on_cpu: bool = False) -> None:
            self.opened.append(on_cpu)
            if self.stays_shut:
                raise EngineError("no device")
            open_again(stages, on_cpu)

        monkeypatch.setattr(Engine, "start", started)
        monkeypatch.setattr(StageGraph, "open", opened)


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


MS, S = NS_PER_MS, 1000 * NS_PER_MS


def decided(pipeline: Pipeline, seq: int, now_ns: int) -> str:
    """On a bright frame and a sentence captured now: the label, or why there is none of the model's."""
    pipeline.add(replace(frame(seq, 250, 0), captured_ns=now_ns))
    pipeline.add(Utterance("text", seq, now_ns, "go on then"))
    verdict = pipeline.decide(now_ns, now_ns).verdict
    return verdict.label if verdict.source == "model" else str(verdict.reason)


def test_an_engine_that_fails_once_is_open_again_at_the_next_decision(tiny_bundle: Bundle, trouble: Trouble) -> None:
    pipeline = Pipeline(tiny_bundle)
    assert decided(pipeline, 0, 0) == "bright"
    trouble.fails = True
    assert decided(pipeline, 1, 10 * S) == "engine: text: the device is gone"
    assert (pipeline.down, pipeline.engine_restarts) == ("engine: text: the device is gone", 0)
    trouble.fails = False
    assert decided(pipeline, 2, 10 * S + MS) == "bright"
    assert (pipeline.down, pipeline.engine_restarts, len(trouble.opened)) == (None, 1, 2)
    trouble.fails = True
    decided(pipeline, 3, 10 * S + 2 * MS)
    trouble.fails = False
    wait = "engine: text: the device is gone"
    assert decided(pipeline, 4, 11 * S + MS - 1) == wait, "at most one restart a second"
    assert decided(pipeline, 5, 11 * S + MS) == "bright"
    assert pipeline.engine_restarts == 2
    trouble.fails = True
    decided(pipeline, 6, 11 * S + 2 * MS)
    trouble.fails = False
    assert decided(pipeline, 7, 12 * S + MS) == "bright", "an answer in between begins the pauses anew"
    pipeline.close()


def test_engines_that_stay_shut_are_tried_at_pauses_that_double_up_to_half_a_minute(
    tiny_bundle: Bundle, trouble: Trouble
) -> None:
    pipeline = Pipeline(tiny_bundle)
    trouble.fails = True
    decided(pipeline, 0, 0)
    trouble.stays_shut = True
    tried = []
    for step in range(1, 320):
        before = len(trouble.opened)
        reason = decided(pipeline, step, step * S // 2)
        if len(trouble.opened) > before:
            tried.append(step / 2)
            assert (reason, pipeline.engine_restarts) == ("engine: no device", 0)
    assert tried == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 95.5, 127.5, 159.5]
    assert not any(trouble.opened), "ONNX Runtime asked for by name is what it is"
    trouble.stays_shut = trouble.fails = False
    assert decided(pipeline, 999, 200 * S) == "bright"
    trouble.fails = True
    decided(pipeline, 1000, 201 * S)
    trouble.fails = False
    assert decided(pipeline, 1001, 200 * S + 31 * S) == "engine: text: the device is gone", "not before its time"
    assert decided(pipeline, 1002, 200 * S + 32 * S) == "bright"
    pipeline.close()


def test_where_it_may_the_cpu_takes_over_once_a_restart_did_not_help(tiny_bundle: Bundle, trouble: Trouble) -> None:
    pipeline = Pipeline(tiny_bundle, EngineConfig("auto"))
    assert trouble.opened == [False]
    trouble.fails = True
    for second in range(4):
        decided(pipeline, second, second * S)
    assert trouble.opened == [False, False, True], "at 1 s as configured, at 2 s on the CPU, and not before 4 s again"
    pipeline.close()


def test_while_the_engines_are_down_nothing_is_prefetched_and_an_error_there_is_the_decision_s(
    tiny_bundle: Bundle, trouble: Trouble
) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(Utterance("text", 0, 0, "stop"))
    trouble.fails = True
    trouble.started.clear()
    pipeline.prefetch(0)
    assert (trouble.started, pipeline.down) == (["text"], None)
    pipeline.add(frame(0, 250, 0))
    assert pipeline.decide(0, 0).verdict.reason == "engine: text: the device is gone"
    trouble.started.clear()
    pipeline.prefetch(0)
    assert trouble.started == []
    pipeline.close()


def test_prefetch_leaves_the_trigger_s_stage_and_what_follows_to_the_decision(
    tiny_bundle: Bundle, trouble: Trouble
) -> None:
    pipeline = Pipeline(tiny_bundle)
    assert pipeline.ahead == {"text", "sensors"}
    pipeline.add(Utterance("text", 0, 0, "stop"))
    pipeline.add(Sample("sensors", 0, 0, {"a": 1.0}))
    pipeline.add(frame(0, 250, 0))
    trouble.started.clear()
    pipeline.prefetch(0)
    assert trouble.started == ["text", "sensors"]
    assert pipeline.decide(0, 0).verdict.label == "stop"
    assert trouble.started == ["text", "sensors", "vision", "fusion"]
    pipeline.prefetch(6000 * MS)
    assert trouble.started[4:] == [], "what is too old is not there"
    pipeline.close()


def test_without_the_cache_or_another_plan_it_says_the_same(tiny_bundle: Bundle, trouble: Trouble) -> None:
    pipeline = Pipeline(tiny_bundle, cache=False, plan=tiny_bundle.plan("default"))
    trouble.started.clear()
    pipeline.add(frame(0, 250, 0))
    for _ in range(2):
        assert pipeline.decide(0, 0).verdict.label == "bright"
    assert trouble.started == ["vision", "fusion"] * 2
    assert (set(pipeline.backends.values()), set(pipeline.precisions.values())) == ({"onnxruntime"}, {"fp32"})
    assert set(pipeline.backends) == set(pipeline.precisions) == {"vision", "text", "sensors", "fusion"}
    with pytest.raises(KeyError):
        Pipeline(tiny_bundle, plan={})
    pipeline.close()


def test_a_side_head_that_is_no_number_makes_all_of_it_unsafe(tmp_path: Path) -> None:
    """The first head's answer is sound; the engine that gave the other is not."""
    stages = list(tiny.stages())
    stages[1] = replace(stages[1], outputs=(*stages[1].outputs, TensorSpec("broken", "float32", (1, 2))))
    side = SideHead("side", SoftmaxHead(("a", "b"), "stage:text:broken"), DecisionPolicy("a"))
    path = tiny.write_bundle(tmp_path / "b", stages=tuple(stages), side_heads=(side,))
    model = onnx.load(path / "stages" / "text.fp32.onnx")
    model.graph.node.append(onnx.helper.make_node("Log", ["masked"], ["logs"]))
    model.graph.node.append(onnx.helper.make_node("ReduceMin", ["logs"], ["least"], keepdims=1))
    model.graph.node.append(onnx.helper.make_node("Concat", ["least", "least"], ["broken"], axis=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("broken", onnx.TensorProto.FLOAT, [1, 2]))
    (path / "stages" / "text.fp32.onnx").write_bytes(model.SerializeToString())
    manifest = parse_manifest((path / MANIFEST).read_bytes(), "b")
    files = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in manifest.files}
    (path / MANIFEST).write_bytes(encode_manifest(replace(manifest, files=files)))
    pipeline = Pipeline(open_bundle(path, allow_unsigned=True))
    assert decided(pipeline, 0, 0) == "engine: output not finite"
    pipeline.close()


def test_the_accounts_are_those_of_the_history(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    assert pipeline.newest_ns("camera") is None
    for seq, at_ms in enumerate((0, 10, 20)):
        pipeline.add(frame(seq, 250, at_ms))
    assert (pipeline.pending("camera"), pipeline.pending("text"), pipeline.newest_ns("camera")) == (3, 0, 20 * MS)
    assert pipeline.answers(0)
    outcome = pipeline.decide(10 * MS, 12 * MS)
    assert pipeline.settle(outcome.aligned.slices["camera"]) == (1, {"superseded": 1})
    assert pipeline.pending("camera") == 1
    assert (pipeline.answers(10 * MS), pipeline.answers(10 * MS - 1)) == (True, False)
    assert outcome.aligned.slices["camera"].age_ns == 2 * MS
    pipeline.close()


def test_one_decision_on_given_inputs_knows_nothing_of_what_was_before_or_comes_after(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(Utterance("text", 0, 0, "stop"))
    picture = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 250, np.uint8)
    assert pipeline.predict({"camera": picture}).verdict.label == "bright"
    assert pipeline.predict({"camera": picture, "text": "please stop now"}).verdict.label == "stop"
    high = pipeline.predict({"camera": picture, "sensors": {"a": 9.0}})
    assert (high.verdict.label, high.aligned.slices["sensors"].age_ns) == ("high", 0)
    assert pipeline.predict({"text": "stop"}).verdict.reason == "camera missing"
    assert (pipeline.newest_ns("text"), pipeline.pending("camera")) == (None, 0)
    pipeline.close()


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"nose": 1}, "input 'nose': the bundle has no such stream; there are camera, sensors, text"),
        ({"camera": "a.jpg"}, "input 'camera': str is nothing for a stream of camera"),
        ({"text": 3}, "input 'text': int is nothing for a stream of text"),
        ({"camera": b"no picture"}, "input 'camera': is refused: not_jpeg"),
        ({"text": " "}, "input 'text': is refused: empty"),
        ({"sensors": {"a": 101.0}}, "input 'sensors': is refused: out_of_range a = 101.0 m, not in -100.0..100.0"),
        ({"sensors": {"a": 1.0, "z": 1.0}}, "input 'sensors': z is refused: unknown_channel"),
    ],
)
def test_what_cannot_be_decided_on_is_said_before_anything_is_forgotten(
    tiny_bundle: Bundle, inputs: dict[str, object], expected: str
) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(frame(0, 250, 0))
    with pytest.raises(UserError) as caught:
        pipeline.predict(inputs)
    assert str(caught.value) == expected
    assert pipeline.newest_ns("camera") == 0
    pipeline.close()


def test_a_decision_that_is_asked_for_once_tries_failed_engines_at_once(tiny_bundle: Bundle, trouble: Trouble) -> None:
    pipeline = Pipeline(tiny_bundle)
    picture = np.full((tiny.HEIGHT, tiny.WIDTH, 3), 250, np.uint8)
    trouble.fails = True
    for _ in range(3):
        assert pipeline.predict({"camera": picture, "text": "go"}).verdict.source == "safe"
    trouble.fails = False
    assert pipeline.predict({"camera": picture, "text": "go"}).verdict.label == "bright"
    pipeline.close()


def test_engines_that_somebody_else_opens_are_waited_for_and_adopted(tiny_bundle: Bundle, trouble: Trouble) -> None:
    pipeline = Pipeline(tiny_bundle, restarts=False)
    assert (decided(pipeline, 0, 0), pipeline.answered) == ("bright", 1)
    trouble.fails = True
    assert decided(pipeline, 1, S) == "engine: text: the device is gone"
    trouble.fails = False
    for second in (2, 3, 100):
        assert decided(pipeline, second, second * S) == "engine: text: the device is gone", "not opened here"
    assert (len(trouble.opened), pipeline.engine_restarts, pipeline.answered) == (1, 0, 1)
    pipeline.adopt(pipeline.open_graph())
    assert (pipeline.down, pipeline.engine_restarts) == (None, 1)
    assert (decided(pipeline, 200, 200 * S), pipeline.answered) == ("bright", 2)
    pipeline.close()


class Gone(EngineError):
    device_lost = True  # type: ignore[assignment]


def test_a_device_that_is_lost_is_told_from_an_engine_that_failed(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tiny_bundle, restarts=False)
    assert pipeline.device_lost is False
    run = StageGraph.run
    for lost in (False, True):

        def fails(graph: StageGraph, aligned: object, lost: bool = lost) -> Inference:
            raise (Gone if lost else EngineError)("gone")

        monkeypatch.setattr(StageGraph, "run", fails)
        assert decided(pipeline, 0, 0) == "engine: gone"
        assert pipeline.device_lost is lost
        monkeypatch.setattr(StageGraph, "run", run)
        pipeline.adopt(pipeline.open_graph())
        assert (pipeline.device_lost, pipeline.down) == (False, None)
    pipeline.close()


def test_engines_are_opened_where_the_configuration_says_or_on_the_cpu(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no_device(settings: EngineConfig) -> Backend:
        asked.append(settings.backend)
        raise EngineError("no device")

    monkeypatch.setitem(BACKENDS, "tensorrt", no_device)
    pipeline = Pipeline(tiny_bundle, EngineConfig("auto"))
    assert (asked, pipeline.falls_back) == (["auto"], True)
    pipeline.open_graph(on_cpu=True).close()
    assert asked == ["auto"]
    pipeline.open_graph().close()
    assert asked == ["auto", "auto"]
    pipeline.close()
    with pytest.raises(EngineError, match="no device"):
        Pipeline(tiny_bundle, EngineConfig("tensorrt"))
    assert Pipeline(tiny_bundle).falls_back is False


@pytest.mark.parametrize(("rules", "age_ms"), [(1, 20), (2, -10)])
def test_cameras_are_paired_unless_a_recording_was_made_before_they_were(
    tmp_path: Path, rules: int, age_ms: int
) -> None:
    pipeline = Pipeline(open_bundle(write_bundle(tmp_path / "b"), allow_unsigned=True))
    pipeline.reset(rules)
    for stream, seq, at_ms in ((REAR, 0, 80), (FRONT, 0, 100), (REAR, 1, 110)):
        pipeline.add(replace(frame(seq, 250, at_ms), stream=stream))
    outcome = pipeline.decide(100 * MS, 100 * MS)
    assert outcome.aligned.slices[REAR].age_ns == age_ms * MS
    pipeline.close()


def test_engines_that_failed_are_closed_at_once_and_all_are_in_the_end(
    tiny_bundle: Bundle, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close = Engine.close

    def noted(engine: Engine) -> None:
        closed.append(engine.name)
        close(engine)

    monkeypatch.setattr(Engine, "close", noted)
    pipeline = Pipeline(tiny_bundle, restarts=False)
    trouble.fails = True
    decided(pipeline, 0, 0)
    assert closed == ["vision", "text", "sensors", "fusion"], "what they held makes room for others"
    trouble.fails = False
    pipeline.adopt(pipeline.open_graph())
    pipeline.close()
    assert len(closed) == 8
    assert decided(pipeline, 1, S) == "engine: stage graph: run while closed"


def test_what_is_announced_late_is_prefetched_from_nothing_that_was_forgotten(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle)
    pipeline.add(Sample("sensors", 0, 0, {"a": 1.0}))
    pipeline.add(Utterance("text", 0, 0, "please stop now"))
    now_ns = 100_000 * NS_PER_MS  # as after a standstill: a heartbeat, long after all that is remembered
    for part in pipeline.decide(now_ns, now_ns, heartbeat=True).aligned.slices.values():
        pipeline.settle(part)
    pipeline.prefetch(10 * NS_PER_MS)  # a frame that was announced before it
    pipeline.add(frame(0, 250, 100_010))
    later_ns = now_ns + 10 * NS_PER_MS
    assert pipeline.decide(later_ns, later_ns).verdict.label == "bright"
