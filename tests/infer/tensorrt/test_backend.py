"""Where engines come from, and what happens when TensorRT is missing or fails. On doubles of driver and runtime."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from edge_runtime.bundle import Bundle, EngineFile, open_bundle
from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaError, open_cuda
from edge_runtime.errors import EngineError
from edge_runtime.infer.engine import Compiled
from edge_runtime.infer.tensorrt.backend import TensorRTBackend
from edge_runtime.infer.tensorrt.library import find_library
from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import NS_PER_MS
from edge_runtime.tensors import TensorSpec
from tests import tiny
from tests.cuda.double import TOTAL_BYTES, Double

if TYPE_CHECKING:
    from tests.infer.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.driver_double

IMAGE = TensorSpec("image", "uint8", (1, tiny.HEIGHT, tiny.WIDTH, 3))
FEATURES = TensorSpec("features", "float32", (1, 2))
MODEL = tiny.vision_graph()
COMPUTE = "8.7"
"""Of the driver double."""


@pytest.fixture
def double() -> Iterator[TensorRTDouble]:
    from tests.infer.tensorrt_double import TensorRTDouble

    yield TensorRTDouble()
    assert set(Double().counts().values()) == {0}
    assert Double().depth() == 0


@pytest.fixture
def open_stage(double: TensorRTDouble, tmp_path: Path) -> Callable[..., None]:
    """Opens the vision stage as a fresh process would, checks its answer, and closes it."""

    def open_and_close(model: bytes = MODEL, ahead_of_time: Any = ()) -> None:
        double.events.clear()
        with (
            double.backend(open_cuda(), tmp_path / "cache") as backend,
            backend.open_engine("vision", "fp32", model, [IMAGE], [FEATURES], ahead_of_time) as engine,
        ):
            engine.warm_up({"image": np.zeros(IMAGE.shape, np.uint8)})
            found = engine.run({"image": np.full(IMAGE.shape, 51, np.uint8)})["features"]
            assert found == pytest.approx(np.array([[0.2, 0.8]]), abs=1e-5)

    return open_and_close


def compiled(double: TensorRTDouble, **changes: Any) -> Compiled:
    """The stage's engine as a bundle would bring it: for this library and device unless `changes` say otherwise."""
    plan = double.build(MODEL).plan
    file = EngineFile(
        stage="vision",
        precision="fp32",
        flavour=double.library.flavour,
        version=double.library.version,
        compute=("8.6", COMPUTE),
        onnx_sha256=hashlib.sha256(MODEL).hexdigest(),
        file="engines/vision",
    )
    return Compiled(msgspec.structs.replace(file, **changes), lambda: plan)


def test_the_first_start_builds_and_the_next_does_not(double: TensorRTDouble, open_stage: Callable[..., None]) -> None:
    open_stage()
    assert double.events.count("build") == 1
    assert "make context" in double.events
    open_stage()
    assert "build" not in double.events
    assert "make warm context" in double.events  # the kernels were kept too


def test_another_graph_of_the_same_stage_is_built(double: TensorRTDouble, open_stage: Callable[..., None]) -> None:
    import onnx

    open_stage()
    other = onnx.load_from_string(MODEL)
    other.doc_string = "another graph"
    open_stage(other.SerializeToString())
    assert "build" in double.events


@pytest.mark.parametrize("damage", ["changed", "cut", "sidecar", "of another engine"])
def test_a_damaged_cache_is_built_anew(
    double: TensorRTDouble,
    open_stage: Callable[..., None],
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_stage()
    (engine,) = (tmp_path / "cache").glob("*.engine")
    data = bytearray(engine.read_bytes())
    sidecar = engine.with_name(engine.name + ".json")
    if damage == "changed":
        data[len(data) // 2] ^= 1
        engine.write_bytes(data)
    elif damage == "cut":
        engine.write_bytes(data[:-1])
    elif damage == "sidecar":
        sidecar.write_text("{")
    else:
        sidecar.write_text(sidecar.read_text().replace("1.7.1.116", "1.7.1.115"))
    open_stage()
    assert "build" in double.events
    assert "made anew" in caplog.text
    open_stage()
    assert "build" not in double.events


def test_a_cached_engine_that_does_not_load_is_built_anew(
    double: TensorRTDouble, open_stage: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    open_stage()
    double.graphs.clear()
    open_stage()
    assert "build" in double.events
    assert "cached engine does not open" in caplog.text


def test_an_engine_of_the_bundle_that_fits_is_used(double: TensorRTDouble, open_stage: Callable[..., None]) -> None:
    one = compiled(double)
    open_stage(ahead_of_time=[compiled(double, compute=("8.9",)), one])
    assert "build" not in double.events


@pytest.mark.parametrize(
    "changes",
    [{"flavour": "tensorrt"}, {"version": "1.7.1.115"}, {"compute": ("8.6", "8.9")}, {"onnx_sha256": "0" * 64}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_engine_of_the_bundle_that_does_not_fit_exactly_is_not_touched(
    double: TensorRTDouble, open_stage: Callable[..., None], changes: dict[str, Any]
) -> None:
    def never() -> bytes:
        raise AssertionError("read")

    one = compiled(double, **changes)
    open_stage(ahead_of_time=[Compiled(one.file, never)])
    assert "build" in double.events


def test_an_engine_of_the_bundle_that_does_not_load_is_built_here(
    double: TensorRTDouble, open_stage: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    one = compiled(double)
    open_stage(ahead_of_time=[Compiled(one.file, lambda: b"no engine")])
    assert "build" in double.events
    assert "bundle's engines/vision engine does not open" in caplog.text


def test_a_full_device_is_not_answered_by_building(double: TensorRTDouble, tmp_path: Path) -> None:
    device = open_cuda()
    with double.backend(device, tmp_path) as backend:
        backend.open_engine("vision", "fp32", MODEL, [IMAGE], [FEATURES]).close()
        double.events.clear()
        Double().fail("cuMemHostAlloc", 2)
        with pytest.raises(CudaError, match="page-locked"):
            backend.open_engine("vision", "fp32", MODEL, [IMAGE], [FEATURES])
        assert "build" not in double.events


def test_a_build_looks_at_the_memory_first(double: TensorRTDouble, tmp_path: Path) -> None:
    device = open_cuda()
    with double.backend(device, tmp_path) as backend:
        assert device.allocate(TOTAL_BYTES - (1 << 20))
        with pytest.raises(EngineError, match="stage vision: building its engine takes about 64 MiB of device memory"):
            backend.open_engine("vision", "fp32", MODEL, [IMAGE], [FEATURES])
    assert double.events.count("build") == 0


def test_progress_reaches_systemd(double: TensorRTDouble, open_stage: Callable[..., None], tmp_path: Path) -> None:
    import os
    import socket

    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager, pytest.MonkeyPatch.context() as patch:
        service_manager.bind(address)
        service_manager.settimeout(5)
        patch.setitem(os.environ, "NOTIFY_SOCKET", address)
        open_stage()
        told = [service_manager.recv(4096).decode() for _ in range(2)]
    # And nothing for the watchdog, which watches the loop only.
    assert told[0] == "EXTEND_TIMEOUT_USEC=60000000"
    assert told[1].startswith("STATUS=building engine vision, ")


# A whole bundle on TensorRT.


@pytest.fixture
def settings(double: TensorRTDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineConfig:
    monkeypatch.setattr("edge_runtime.infer.tensorrt.backend.load_library", lambda: double.library)
    return EngineConfig(backend="tensorrt", cache=str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(tiny.write_bundle(tmp_path / "tiny"), allow_unsigned=True)


def feed(pipeline: Pipeline, step: int) -> tuple[int, int]:
    at_ns = 100 * step * NS_PER_MS
    pipeline.add(Frame("camera", step, at_ns, np.full((48, 64, 3), 40 + 13 * step % 200, np.uint8)))
    if step % 3 == 0:
        pipeline.add(Utterance("text", step, at_ns, tiny.SENTENCES[step % len(tiny.SENTENCES)]))
    if step % 2 == 0:
        pipeline.add(Sample("sensors", step, at_ns, {"a": float(step - 7), "b": 1.0}))
    return at_ns, at_ns


def test_a_bundle_decides_on_tensorrt_as_on_onnx_runtime(bundle: Bundle, settings: EngineConfig) -> None:
    with ExitStack() as cleanup:
        ours, reference = Pipeline(bundle, settings), Pipeline(bundle)
        cleanup.callback(ours.close)
        cleanup.callback(reference.close)
        assert set(ours.backends.values()) == {"tensorrt"}
        for step in range(30):
            outcomes = [pipeline.decide(*feed(pipeline, step)) for pipeline in (ours, reference)]
            found, expected = (outcome.inference.output for outcome in outcomes)
            assert found is not None and expected is not None
            assert found == pytest.approx(expected, abs=1e-5)
            ours.prefetch(100 * step * NS_PER_MS)


def test_a_reload_opens_the_new_bundle_beside_the_old(bundle: Bundle, settings: EngineConfig) -> None:
    old = Pipeline(bundle, settings)
    new = Pipeline(bundle, settings)
    assert old.decide(*feed(old, 0)).verdict.source == "model"
    old.close()
    assert new.decide(*feed(new, 0)).verdict.source == "model"
    new.close()


def test_each_back_end_has_its_own_plan(tmp_path: Path, settings: EngineConfig) -> None:
    stages = tuple(
        msgspec.structs.replace(stage, files=stage.files | {"fp16": stage.files["fp32"]}) for stage in tiny.stages()
    )
    names = [stage.name for stage in stages]
    plans = {"default": dict.fromkeys(names, "fp32"), "tensorrt": dict.fromkeys(names, "fp32") | {"vision": "fp16"}}
    path = tiny.write_bundle(tmp_path / "b", stages=stages, precision=plans)
    bundle = open_bundle(path, allow_unsigned=True)
    with ExitStack() as cleanup:
        for engine, expected in ((settings, plans["tensorrt"]), (EngineConfig("onnxruntime"), plans["default"])):
            pipeline = Pipeline(bundle, engine)
            cleanup.callback(pipeline.close)
            assert pipeline.precisions == expected


def failing_steps(pipeline: Pipeline, double: TensorRTDouble) -> list[tuple[str, set[str]]]:
    """For ten seconds after TensorRT begins to fail: who answered, and what the stages ran on."""
    assert pipeline.decide(*feed(pipeline, 0)).verdict.source == "model"
    double.disturb = lambda _, value: np.full_like(value, np.nan)
    steps = []
    for step in range(1, 100):
        source = pipeline.decide(*feed(pipeline, step)).verdict.source
        steps.append((source, set(pipeline.backends.values())))
    return steps


def test_an_engine_that_keeps_failing_hands_over_to_the_cpu(
    bundle: Bundle, settings: EngineConfig, double: TensorRTDouble
) -> None:
    pipeline = Pipeline(bundle, msgspec.structs.replace(settings, fallback=True))
    steps = failing_steps(pipeline, double)
    assert steps[0] == ("safe", {"tensorrt"})
    assert steps[-1] == ("model", {"onnxruntime"})
    assert pipeline.down is None
    pipeline.close()


def test_without_a_fallback_it_stays_safe(bundle: Bundle, settings: EngineConfig, double: TensorRTDouble) -> None:
    pipeline = Pipeline(bundle, settings)
    steps = failing_steps(pipeline, double)
    assert {source for source, _ in steps} == {"safe"}
    assert pipeline.engine_restarts > 1
    double.disturb = lambda _, value: value
    answers = [pipeline.decide(*feed(pipeline, 100 + step)).verdict.source for step in range(200)]
    assert answers[-1] == "model"
    pipeline.close()


def test_an_engine_that_cannot_be_loaded_falls_back_or_says_so(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The real TensorRT on the driver double: it builds, but has no GPU to load engines on."""
    if find_library(("tensorrt_rtx",)) is None:
        pytest.skip("tensorrt_rtx is not installed")
    caplog.set_level(logging.INFO)
    cache = str(tmp_path / "real")
    with pytest.raises(EngineError, match="engine vision: tensorrt_rtx"):
        Pipeline(bundle, EngineConfig("tensorrt", cache=cache))
    pipeline = Pipeline(bundle, EngineConfig("auto", cache=cache))
    assert set(pipeline.backends.values()) == {"onnxruntime"}
    assert "engines run on ONNX Runtime (CPU): engine vision: tensorrt_rtx" in caplog.text
    pipeline.close()
    assert set(Double().counts().values()) == {0}


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
def test_cuda_is_reached_as_configured(settings: EngineConfig, cuda: Any, caplog: pytest.LogCaptureFixture) -> None:
    if cuda == "pycuda":
        pytest.importorskip("pycuda", reason="PyCUDA is not installed")
    caplog.set_level(logging.INFO)
    TensorRTBackend.open(msgspec.structs.replace(settings, cuda=cuda)).close()
    assert f"compute 8.7, {cuda})" in caplog.text
