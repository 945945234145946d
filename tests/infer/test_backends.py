"""What engines run on, as the configuration asks for it, on a machine without a GPU."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.config import EngineConfig
from edge_runtime.errors import BundleError, UserError
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer import open_backend
from edge_runtime.pipeline import Pipeline
from tests import tiny


@pytest.fixture(autouse=True)
def without_a_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has an NVIDIA driver")


def test_auto_takes_the_cpu_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert open_backend(EngineConfig("auto")).name == "onnxruntime"
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.message.startswith("engines run on ONNX Runtime (CPU): the NVIDIA driver (libcuda.so.1)")


def test_tensorrt_asked_for_by_name_is_not_replaced_in_silence() -> None:
    with pytest.raises(UserError, match="libcuda"):
        open_backend(EngineConfig("tensorrt"))
    with pytest.raises(UserError, match="libcuda"):
        open_backend(EngineConfig("auto", fallback=False))


def test_a_fallback_that_was_asked_for_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert open_backend(EngineConfig("tensorrt", fallback=True)).name == "onnxruntime"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_onnx_runtime_by_name_looks_for_no_gpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert open_backend(EngineConfig("onnxruntime")).name == "onnxruntime"
    assert not caplog.records


def test_a_pipeline_runs_on_what_it_got(tiny_bundle: Bundle) -> None:
    pipeline = Pipeline(tiny_bundle, EngineConfig("auto", threads=2))
    assert set(pipeline.backends.values()) == {"onnxruntime"}
    pipeline.close()


def test_a_bundle_that_cannot_run_anywhere_is_opened_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from edge_runtime.bundle import open_bundle

    wrong = list(tiny.stages())
    five = SoftmaxHead((*tiny.LABELS, "low"), "stage:fusion:logits")
    wrong[3] = type(wrong[3])(
        "fusion", wrong[3].inputs, (type(wrong[3].outputs[0])("logits", "float32", (1, 5)),), wrong[3].files
    )
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", stages=tuple(wrong), head=five), allow_unsigned=True)
    with pytest.raises(BundleError, match="rebuild the bundle"):
        Pipeline(bundle, EngineConfig("auto"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
