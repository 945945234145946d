"""The contract of every engine, one file for all back ends."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import BundleError, ConfigError, EngineError
from edge_runtime.infer import BACKENDS, open_engine
from edge_runtime.infer.engine import Engine
from edge_runtime.tensors import TensorSpec
from tests import tiny

IMAGE = TensorSpec("image", "uint8", (1, tiny.HEIGHT, tiny.WIDTH, 3))
FEATURES = TensorSpec("features", "float32", (1, 2))


@pytest.fixture(params=sorted(BACKENDS))
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param, "vision", "fp32", tiny.vision_graph(), [IMAGE], [FEATURES])


def picture(value: int) -> np.ndarray:
    return np.full(IMAGE.shape, value, np.uint8)


def test_it_computes(engine: Engine) -> None:
    assert engine.run({"image": picture(102)})["features"] == pytest.approx(np.array([[0.4, 0.6]]), abs=1e-5)


def test_earlier_answers_stay_valid(engine: Engine) -> None:
    first = engine.run({"image": picture(0)})["features"]
    engine.run({"image": picture(255)})
    assert first == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-5)


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


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_bytes_that_are_no_graph_are_refused(backend: str) -> None:
    with pytest.raises(BundleError, match="cannot load"):
        open_engine(backend, "vision", "fp32", b"not a graph", [IMAGE], [FEATURES])


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_graph_other_than_announced_is_refused(backend: str) -> None:
    with pytest.raises(BundleError, match="rebuild the bundle"):
        open_engine(backend, "vision", "fp32", tiny.vision_graph(), [IMAGE], [TensorSpec("out", "float32", (1, 2))])


def test_an_unknown_back_end_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'abacus'; there are"):
        open_engine("abacus", "vision", "fp32", b"", [], [])
