from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from edge_runtime.align import align
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer.engine import Engine
from edge_runtime.infer.stages import SliceTensors, StageGraph
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Slice, Tensors, Utterance
from edge_runtime.streams import NS_PER_MS, preprocessors
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
