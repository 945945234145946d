"""Real parsing and building by tensorrt_rtx, which needs no GPU for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import PREFIX, bundle_path
from edge_runtime.errors import BundleError, ConfigError, EngineError
from edge_runtime.infer.tensorrt.build import Built, GraphFacts, build_engine, graph_facts, known_compute, problems
from edge_runtime.infer.tensorrt.library import find_library
from tests import tiny

TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")


@pytest.fixture
def library() -> Any:
    found = find_library(("tensorrt_rtx",))
    if found is None:
        pytest.skip("tensorrt_rtx is not installed")
    return found


def graph(nodes: list[Any], shape: list[int], kind: int = TensorProto.FLOAT, **constants: np.ndarray) -> bytes:
    """x -> y, both of `shape`."""
    infos = [[helper.make_tensor_value_info(name, kind, shape)] for name in ("x", "y")]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "test", *infos, initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def quantised() -> bytes:
    """y = Q/DQ(x) times Q/DQ'd weights: three quantise and dequantise nodes."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    return graph(
        nodes,
        [32, 32],
        scale=np.float32(0.02),
        zero=np.int8(0),
        w=np.arange(1024, dtype=np.int64).reshape(32, 32).astype(np.int8),
        scales=np.full(32, 0.01, np.float32),
        zeros=np.zeros(32, np.int8),
    )


@pytest.mark.parametrize("compute", [(), *((one,) for one in TARGETS), TARGETS], ids=lambda it: "+".join(it) or "any")
def test_it_builds_for_gpus_that_are_not_here(library: Any, compute: tuple[str, ...]) -> None:
    model = quantised()
    built = build_engine(library, model, compute=compute)
    assert (built.flavour, built.version, built.compute) == ("tensorrt_rtx", library.version, compute)
    assert built.quantise_layers == 3
    assert built.layers > 3
    assert built.seconds > 0
    assert problems(built, graph_facts(model)) == ()


@pytest.mark.parametrize("bundle", ["home", "vehicle"])
def test_every_stage_of_the_shipped_bundles_builds_in_every_precision(library: Any, bundle: str) -> None:
    opened = open_bundle(bundle_path(PREFIX + bundle), allow_unsigned=True)
    for stage in opened.manifest.stages:
        for precision, file in stage.files.items():
            model = opened.read(file)
            built = build_engine(library, model, name=f"{stage.name} {precision}", compute=("8.6",))
            assert problems(built, graph_facts(model)) == (), (stage.name, precision)


def test_known_targets_are_told(library: Any) -> None:
    assert set(TARGETS) <= set(known_compute(library))
    with pytest.raises(
        ConfigError, match=r"'8.7' \(Jetson Orin\): tensorrt_rtx .* for .*8.6.*the device builds its own"
    ):
        build_engine(library, quantised(), compute=("8.6", "8.7"))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_plain_tensorrt_builds_for_the_gpu_at_hand_only(library: Any) -> None:
    class Older:
        """A module without the list of targets."""

        def __getattr__(self, name: str) -> Any:
            if name == "ComputeCapability":
                raise AttributeError(name)
            return getattr(library.module, name)

    plain = replace(library, flavour="tensorrt", module=Older())
    assert known_compute(plain) == ()
    with pytest.raises(ConfigError, match="for the GPU at hand only"):
        build_engine(plain, quantised(), compute=("8.6",))
    built = build_engine(plain, quantised())
    assert built.timing_cache
    again = build_engine(plain, quantised(), timing_cache=built.timing_cache)
    assert again.quantise_layers == 3


def test_the_node_that_the_parser_does_not_take_is_named(library: Any) -> None:
    turn = helper.make_node("Transpose", ["x"], ["y"], name="turn")
    with pytest.raises(BundleError, match="^stage vision: tensorrt_rtx .* Transpose node 'turn': .*UInt8") as refused:
        build_engine(library, graph([turn], [4, 4], TensorProto.UINT8), name="stage vision")
    assert "\n" not in str(refused.value)
    with pytest.raises(BundleError, match="Strange node 'odd': TensorRT has no such operator"):
        build_engine(library, graph([helper.make_node("Strange", ["x"], ["y"], name="odd")], [4]))
    nameless = helper.make_node("Strange", ["x"], ["y"])
    with pytest.raises(BundleError, match="Strange node 0: "):
        build_engine(library, graph([nameless], [4]))


@pytest.mark.parametrize("model", [b"", b"no graph", tiny.vision_graph()[:-20]])
def test_bytes_that_are_no_graph_are_refused(library: Any, model: bytes) -> None:
    with pytest.raises(BundleError, match="^stage s: "):
        build_engine(library, model, name="stage s")


def test_shapes_that_contradict_each_other_are_named(library: Any) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "wrong"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"], name="sum"),
    ]
    message = "cannot take its graph: Add node 'sum': broadcast dimensions must be conformable$"
    with pytest.raises(BundleError, match=message):
        build_engine(library, graph(nodes, [2, 3], wrong=np.array([6, 1])))


def test_a_build_that_fails_gives_the_log_s_reason(library: Any) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [32, 32], w=np.ones((32, 32), np.float32))
    with pytest.raises(EngineError, match=r"^stage s: tensorrt_rtx .* failed to build .*FP32 GEMM is not supported\)$"):
        build_engine(library, model, name="stage s", compute=("7.5",))


@pytest.mark.parametrize("free", [1 << 20, 0])
def test_too_little_memory_is_said_before_the_build(library: Any, free: int) -> None:
    with pytest.raises(EngineError, match=f"about 64 MiB of device memory, {free >> 20} MiB are free"):
        build_engine(library, quantised(), free_device_bytes=free)


def test_a_small_device_gets_a_small_workspace(library: Any) -> None:
    assert build_engine(library, quantised(), free_device_bytes=70 << 20).plan


def test_progress_goes_from_nothing_to_all(library: Any) -> None:
    steps: list[tuple[float, str]] = []
    build_engine(library, tiny.vision_graph(), progress=lambda part, phase: steps.append((part, phase)))
    parts = [part for part, _ in steps]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert len(set(parts)) > 5
    assert all(phase for _, phase in steps)


def test_facts_are_counted_in_the_graph() -> None:
    facts = graph_facts(quantised())
    assert facts.quantise_nodes == 3
    assert 1024 < facts.weight_bytes < 2048
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(1000, np.float32)))
    folded = graph([constant, helper.make_node("Add", ["x", "c"], ["y"])], [1000])
    assert graph_facts(folded).weight_bytes >= 4000


BUILT = Built(b"x" * 1_000_000, 0.1, 10, 4, (), "tensorrt_rtx", "1.7", (), b"")
FACTS = GraphFacts(weight_bytes=900_000, quantise_nodes=4)


def test_a_sound_engine_has_no_problems() -> None:
    assert problems(BUILT, FACTS) == ()


@pytest.mark.parametrize(
    ("built", "facts", "expected"),
    [
        (replace(BUILT, warnings=("odd",)), FACTS, "unexpected warning: odd"),
        (replace(BUILT, quantise_layers=3), FACTS, "only 3 of the graph's 4"),
        (replace(BUILT, plan=b"x" * 1000), FACTS, "1000 bytes"),
        (replace(BUILT, plan=b"x" * 600_000), GraphFacts(900_000, 0), "600000 bytes"),
        (replace(BUILT, plan=b"x" * 20_000_000), FACTS, "20000000 bytes"),
    ],
)
def test_each_suspicion_is_said(built: Built, facts: GraphFacts, expected: str) -> None:
    (found,) = problems(built, facts)
    assert expected in found


@given(size=st.integers(0, 60_000_000), weights=st.integers(0, 10_000_000), quantise=st.integers(0, 5))
def test_the_size_check_never_forbids_what_a_faithful_copy_needs(size: int, weights: int, quantise: int) -> None:
    built = replace(BUILT, plan=bytes(size), quantise_layers=quantise)
    found = problems(built, GraphFacts(weights, quantise))
    if weights <= size <= weights + (4 << 20):
        assert found == ()
    if size > 4 * weights + (8 << 20) or (not quantise and size < weights // 2):
        assert found != ()


def test_a_graph_survives_shape_inference() -> None:
    graph = onnx.load_from_string(quantised())
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True).graph
    shaped = {value.name for value in (*inferred.value_info, *inferred.output)}
    assert shaped >= {name for node in graph.graph.node for name in node.output}
