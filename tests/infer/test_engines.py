"""The contract of every engine, one file for all back ends."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cuda import open_cuda
from edge_runtime.errors import BundleError, EngineError, UserError
from edge_runtime.infer.engine import Backend, Engine
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeBackend
from edge_runtime.infer.tensorrt.backend import TensorRTBackend
from edge_runtime.infer.tensorrt.cache import EngineCache
from edge_runtime.infer.tensorrt.library import load_library
from edge_runtime.tensors import TensorSpec
from tests import tiny
from tests.cuda.double import Double

IMAGE = TensorSpec("image", "uint8", (1, tiny.HEIGHT, tiny.WIDTH, 3))
FEATURES = TensorSpec("features", "float32", (1, 2))
CUDA = ("cuda-python", "pycuda")
BACKENDS = [
    "onnxruntime",
    *(
        pytest.param((flavour, cuda), marks=pytest.mark.driver_double, id=f"{flavour}-{cuda}-double")
        for flavour in ("tensorrt", "tensorrt_rtx")
        for cuda in CUDA
    ),
    *(pytest.param(cuda, id=f"tensorrt-{cuda}-gpu") for cuda in CUDA),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Whatever a test does, closing the back end leaves nothing on the device."""
    if request.param == "onnxruntime":
        yield OnnxRuntimeBackend()
    elif request.node.get_closest_marker("driver_double"):
        from tests.infer.tensorrt_double import TensorRTDouble

        flavour, cuda = request.param
        if cuda == "pycuda" and importlib.util.find_spec("pycuda") is None:
            pytest.skip("PyCUDA is not installed; `python -m tests.cuda.build_pycuda` builds it")
        double = TensorRTDouble(flavour)
        with double.backend(open_cuda(cuda), tmp_path) as opened:
            yield opened
        assert set(Double().counts().values()) == {0}
        assert (Double().depth(), double.count()) == (0, 0)
    else:
        try:
            device = open_cuda(request.param)
            library = load_library()
        except UserError as error:
            pytest.skip(str(error))
        with TensorRTBackend(library, device, EngineCache(tmp_path)) as opened:
            yield opened


@pytest.fixture
def engine(backend: Backend) -> Iterator[Engine]:
    with backend.open_engine("vision", "fp32", tiny.vision_graph(), [IMAGE], [FEATURES]) as opened:
        yield opened


def picture(value: int) -> np.ndarray:
    return np.full(IMAGE.shape, value, np.uint8)


def test_it_computes(engine: Engine) -> None:
    assert engine.run({"image": picture(102)})["features"] == pytest.approx(np.array([[0.4, 0.6]]), abs=1e-5)


def test_earlier_answers_stay_valid(engine: Engine) -> None:
    first = engine.run({"image": picture(0)})["features"]
    engine.run({"image": picture(255)})
    assert first == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-5)


def test_a_warm_engine_computes_the_same(engine: Engine) -> None:
    engine.warm_up({"image": picture(0)})
    for value in (102, 51, 255, 0, 51):
        share = value / 255
        answer = engine.run({"image": picture(value)})["features"]
        assert answer == pytest.approx(np.array([[share, 1 - share]]), abs=1e-5)


def test_a_run_may_be_started_and_finished_apart(engine: Engine) -> None:
    engine.start({"image": picture(102)})
    assert engine.finish()["features"] == pytest.approx(np.array([[0.4, 0.6]]), abs=1e-5)
    with pytest.raises(EngineError, match="nothing was started"):
        engine.finish()


def test_an_answer_nobody_fetched_is_replaced(engine: Engine) -> None:
    engine.start({"image": picture(255)})
    engine.start({"image": picture(102)})
    assert engine.finish()["features"] == pytest.approx(np.array([[0.4, 0.6]]), abs=1e-5)


def test_engines_of_one_back_end_run_side_by_side(backend: Backend) -> None:
    graph = tiny.vision_graph()
    with (
        backend.open_engine("left", "fp32", graph, [IMAGE], [FEATURES]) as left,
        backend.open_engine("right", "fp32", graph, [IMAGE], [FEATURES]) as right,
    ):
        left.warm_up({"image": picture(7)})
        right.warm_up({"image": picture(9)})
        left.start({"image": picture(0)})
        right.start({"image": picture(255)})
        assert right.finish()["features"] == pytest.approx(np.array([[1.0, 0.0]]), abs=1e-5)
        assert left.finish()["features"] == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-5)


def test_a_missing_input_is_named(engine: Engine) -> None:
    with pytest.raises(EngineError, match="input 'image' is missing"):
        engine.run({})


@pytest.mark.parametrize("bad", [np.zeros((1, 5, 5, 3), np.uint8), np.zeros(IMAGE.shape, np.float32)])
def test_a_wrong_shape_or_type_is_named(engine: Engine, bad: np.ndarray) -> None:
    with pytest.raises(EngineError, match="tensor 'image' is"):
        engine.run({"image": bad})


def test_after_close_it_refuses_and_closing_twice_is_harmless(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="after close"):
        engine.run({"image": picture(0)})


def test_it_closes_as_a_context_manager(engine: Engine) -> None:
    with engine as opened:
        opened.warm_up({"image": picture(1)})
    with pytest.raises(EngineError):
        engine.run({"image": picture(0)})


def test_bytes_that_are_no_graph_are_refused(backend: Backend) -> None:
    said = "ONNX Runtime cannot load its graph" if backend.name == "onnxruntime" else "not an ONNX graph"
    with pytest.raises(BundleError, match=f"vision.*{said}"):
        backend.open_engine("vision", "fp32", b"not a graph", [IMAGE], [FEATURES])


def test_a_graph_other_than_announced_is_refused(backend: Backend) -> None:
    with pytest.raises(BundleError, match="rebuild the bundle"):
        backend.open_engine("vision", "fp32", tiny.vision_graph(), [IMAGE], [TensorSpec("out", "float32", (1, 2))])
