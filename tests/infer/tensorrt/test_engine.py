"""What a TensorRT engine does with its device, on doubles of driver and runtime objects."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_runtime.cuda import CudaError
from edge_runtime.cuda.cuda_python_device import CudaPythonDevice
from edge_runtime.cuda.pycuda_device import PycudaDevice
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.infer.tensorrt.engine import TensorRTEngine
from edge_runtime.tensors import TensorSpec
from tests import tiny
from tests.cuda.double import ILLEGAL_ADDRESS, TOTAL_BYTES, Double

if TYPE_CHECKING:
    from tests.infer.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.driver_double

IMAGE = TensorSpec("image", "uint8", (1, tiny.HEIGHT, tiny.WIDTH, 3))
FEATURES = TensorSpec("features", "float32", (1, 2))
JETSON, CARD = 0, 1
"""The driver double's devices: one that shares the CPU's memory, one with its own."""


def picture(value: int) -> np.ndarray:
    return np.full(IMAGE.shape, value, np.uint8)


def answer(value: int) -> Any:
    return pytest.approx(np.array([[value / 255, 1 - value / 255]]), abs=1e-5)


class Bench:
    """Opens engines on one device; whatever a test does, nothing is left when it ends."""

    def __init__(self, double: TensorRTDouble, device: CudaPythonDevice | PycudaDevice) -> None:
        self.double = double
        self.device = device
        self.plan = double.build(tiny.vision_graph()).plan
        double.events.clear()
        self.runtime = double.Runtime(None)
        self.kept: list[bytes] = []

    def open(self, plan: bytes | None = None, **changes: Any) -> TensorRTEngine:
        named = {"inputs": [IMAGE], "outputs": [FEATURES], "kernels": b""} | changes
        return TensorRTEngine(
            "vision",
            "fp32",
            named["inputs"],
            named["outputs"],
            self.plan if plan is None else plan,
            library=self.double.library,
            runtime=self.runtime,
            device=self.device,
            kernels=named["kernels"],
            keep_kernels=self.kept.append,
        )


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    from tests.infer.tensorrt_double import TensorRTDouble

    benches: list[Bench] = []

    def make(flavour: Any = "tensorrt_rtx", device: Any = CudaPythonDevice, ordinal: int = CARD) -> Bench:
        benches.append(Bench(TensorRTDouble(flavour), device(ordinal)))
        return benches[-1]

    yield make
    for bench in benches:
        bench.runtime = None  # type: ignore[assignment]
        bench.device.close()
        gc.collect()
        assert bench.double.count() == 0
        assert not [event for event in bench.double.events if "without a context" in event or "after free" in event]
    assert set(Double().counts().values()) == {0}


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("ordinal", [JETSON, CARD])
def test_after_two_runs_frames_are_one_graph_launch(
    make_bench: Callable[..., Bench], flavour: str, ordinal: int
) -> None:
    bench = make_bench(flavour, CudaPythonDevice, ordinal)
    with bench.open() as engine:
        assert engine.launch_mode == "enqueue"
        engine.warm_up({"image": picture(0)})
        assert engine.launch_mode == "graph"
        enqueued = bench.double.events.count("execute")
        assert enqueued >= 3  # twice before it is captured
        for value in (255, 0, 102):
            assert engine.run({"image": picture(value)})["features"] == answer(value)
        assert bench.double.events.count("execute") == enqueued
        assert Double().counts()["executable graphs"] == 1


@pytest.mark.parametrize(("ordinal", "copies"), [(JETSON, 0), (CARD, 2)])
def test_where_memory_is_shared_kernels_work_in_place(
    make_bench: Callable[..., Bench], ordinal: int, copies: int
) -> None:
    with make_bench("tensorrt", CudaPythonDevice, ordinal).open():
        counts = Double().counts()
        assert (counts["device memory"], counts["host memory"]) == (copies, 2)


def test_pycuda_leaves_the_graph_to_the_library_where_it_can(make_bench: Callable[..., Bench]) -> None:
    pytest.importorskip("pycuda", reason="PyCUDA is not installed; `python -m tests.cuda.build_pycuda` builds it")
    for flavour, mode, event in (
        ("tensorrt", "enqueue", "execute"),
        ("tensorrt_rtx", "library graph", "execute in its own graph"),
    ):
        bench = make_bench(flavour, PycudaDevice)
        with bench.open() as engine:
            engine.warm_up({"image": picture(0)})
            assert engine.launch_mode == mode
            assert engine.run({"image": picture(102)})["features"] == answer(102)
            assert {name for name in bench.double.events if name.startswith("execute")} == {event}


def test_a_stream_that_cannot_be_captured_is_left_to_the_library(bench: Bench) -> None:
    bench.double.capturable = False
    with bench.open() as engine:
        engine.warm_up({"image": picture(0)})
        assert engine.launch_mode == "library graph"
        assert engine.run({"image": picture(102)})["features"] == answer(102)
        assert bench.double.events[-1] == "execute in its own graph"


@pytest.mark.parametrize(("flavour", "mode"), [("tensorrt", "enqueue"), ("tensorrt_rtx", "library graph")])
def test_a_capture_that_fails_costs_the_graph_only(
    make_bench: Callable[..., Bench], flavour: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(flavour)
    with bench.open() as engine:
        Double().fail("cuGraphInstantiateWithFlags", 801)
        engine.warm_up({"image": picture(0)})
        assert engine.launch_mode == mode
        assert "runs without a CUDA graph" in caplog.text
        assert engine.run({"image": picture(102)})["features"] == answer(102)


def test_everything_goes_in_the_reverse_order(bench: Bench) -> None:
    engine = bench.open()
    engine.warm_up({"image": picture(0)})
    bench.double.events.clear()
    engine.close()
    assert bench.double.events == ["free context", "free engine"]
    assert Double().counts() | {"primary contexts": 0} == dict.fromkeys(Double().counts(), 0)


def test_closing_in_the_middle_of_a_run_waits_for_it(bench: Bench) -> None:
    engine = bench.open()
    engine.start({"image": picture(1)})
    engine.close()
    assert bench.double.runs == 1


def test_engines_can_be_opened_again_on_the_same_device(bench: Bench) -> None:
    for value in (51, 102):
        with bench.open() as engine:
            engine.warm_up({"image": picture(0)})
            assert engine.run({"image": picture(value)})["features"] == answer(value)


def test_kernels_compiled_by_rtx_are_kept_and_used_again(bench: Bench) -> None:
    with bench.open() as engine:
        engine.warm_up({"image": picture(0)})
    (kernels,) = bench.kept
    assert "make context" in bench.double.events
    with bench.open(kernels=kernels) as engine:
        engine.warm_up({"image": picture(0)})
    assert "make warm context" in bench.double.events
    assert bench.kept == [kernels]


def test_kernels_of_another_driver_are_compiled_anew(bench: Bench) -> None:
    with bench.open(kernels=b"of another driver") as engine:
        engine.warm_up({"image": picture(0)})
    assert bench.kept == [bench.kept[0]] and bench.kept[0] != b"of another driver"


def test_an_engine_that_answers_differently_each_time_is_refused(bench: Bench) -> None:
    bench.double.disturb = lambda run, value: value + run
    with bench.open() as engine, pytest.raises(EngineError, match="different answers on the same input"):
        engine.warm_up({"image": picture(0)})


def test_a_graph_that_answers_otherwise_is_refused(bench: Bench) -> None:
    calls = 5  # all that warm-up runs before it captures

    bench.double.disturb = lambda run, value: value if run < calls else value + 1
    with bench.open() as engine, pytest.raises(EngineError, match="otherwise from a CUDA graph"):
        engine.warm_up({"image": picture(0)})


def test_an_engine_that_ignores_its_input_is_reported(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.double.disturb = lambda _, value: np.zeros_like(value)
    with bench.open() as engine:
        engine.warm_up({"image": picture(0)})
    assert "two different inputs give the same answer" in caplog.text


def test_an_engine_with_invalid_outputs_warms_up_as_any_other(bench: Bench) -> None:
    bench.double.disturb = lambda _, value: np.full_like(value, np.nan)
    with bench.open() as engine:
        engine.warm_up({"image": picture(0)})
        assert np.isnan(engine.run({"image": picture(0)})["features"]).all()


def test_bytes_that_do_not_load_say_why_and_leave_nothing(bench: Bench) -> None:
    with pytest.raises(EngineError, match="does not load it .*magicTag"):
        bench.open(b"no engine")
    assert bench.double.count() == 1  # the runtime
    assert Double().counts()["streams"] == 0


def test_a_run_that_the_library_refuses_says_why(bench: Bench) -> None:
    with bench.open() as engine:
        bench.double.runs_fail = True
        with pytest.raises(EngineError, match="does not run it .*not all addresses"):
            engine.run({"image": picture(0)})


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [TensorSpec("image", "uint8", (1, 5, 5, 3))]},
        {"inputs": [TensorSpec("image", "float32", IMAGE.shape)]},
        {"inputs": [IMAGE, TensorSpec("more", "float32", (1,))]},
        {"inputs": []},
        {"outputs": [TensorSpec("image", "uint8", IMAGE.shape)]},
        {"outputs": []},
    ],
)
def test_tensors_other_than_announced_are_refused(bench: Bench, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="rebuild the bundle"):
        bench.open(**changes)
    assert Double().counts()["streams"] == 0


@pytest.mark.parametrize(
    "function", ["cuMemHostAlloc", "cuMemAlloc", "cuStreamCreate", "cuEventCreate", "cuMemHostGetDevicePointer"]
)
def test_a_device_that_fails_half_way_leaves_nothing(make_bench: Callable[..., Bench], function: str) -> None:
    bench = make_bench(ordinal=JETSON if function == "cuMemHostGetDevicePointer" else CARD)
    Double().fail(function, 2)
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        bench.open()
    assert Double().counts() | {"primary contexts": 0} == dict.fromkeys(Double().counts(), 0)
    assert bench.double.count() == 1


def test_too_little_device_memory_is_said_in_megabytes(bench: Bench) -> None:
    taken = bench.device.allocate(TOTAL_BYTES - 1024)
    assert taken
    with pytest.raises(CudaError, match="asked for .* MiB of device memory, 0.0 MiB are free"):
        bench.open()


@pytest.mark.parametrize("what", ["run", "close"])
def test_another_thread_is_refused_and_the_engine_goes_on(bench: Bench, what: str) -> None:
    with bench.open() as engine:
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                engine.run({"image": picture(0)}) if what == "run" else engine.close()
            except EngineError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere, name="intruder")
        thread.start()
        thread.join()
        assert "intruder" in str(errors[0])
        assert engine.run({"image": picture(51)})["features"] == answer(51)


def test_a_lost_device_is_an_engine_error_and_closing_still_works(bench: Bench) -> None:
    engine = bench.open()
    engine.warm_up({"image": picture(0)})
    try:
        Double().lose_device(ILLEGAL_ADDRESS)
        with pytest.raises(EngineError, match="restart it"):
            engine.run({"image": picture(0)})
        engine.close()
    finally:
        bench.runtime = None  # type: ignore[assignment]
        bench.device.close()
        Double().forget()


def test_engine_time_is_taken_on_the_device(bench: Bench) -> None:
    with bench.open() as engine:
        engine.warm_up({"image": picture(0)})
        runs = bench.double.runs
        assert len(engine.time_engine(5)) == 5
        assert bench.double.runs == runs + 5
        assert engine.run({"image": picture(102)})["features"] == answer(102)


def test_two_devices_may_be_open_and_the_older_closed_first(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    old, new = make_bench(), make_bench()
    engine = old.open()
    with new.open() as successor:
        successor.warm_up({"image": picture(0)})
        engine.close()
        old.runtime = None  # type: ignore[assignment]
        old.device.close()
        assert successor.run({"image": picture(102)})["features"] == answer(102)
