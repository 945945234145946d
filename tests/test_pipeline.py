from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, SideHead, open_bundle
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.regression import RegressionHead, Value
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.pipeline import MAX_RESTART_PAUSE_NS, RESTART_PAUSE_NS, Pipeline
from edge_runtime.streams import NS_PER_MS
from tests import tiny


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
    assert RESTART_PAUSE_NS < MAX_RESTART_PAUSE_NS


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
