"""Ahead-of-time engines in the build line: what is checked, and what is refused with which words."""

from __future__ import annotations

import dataclasses

import pytest
from onnx import TensorProto, helper

from build_engines import compile as compile_stage
from build_engines.compile import compile_graph, find_compiler
from build_engines.graphs import serialised
from build_engines.quantisation.quantise import prepare, quantise, sites
from edge_runtime.errors import ConfigError, GateRefused
from edge_runtime.infer.tensorrt.build import Built, known_compute
from edge_runtime.infer.tensorrt.library import Library
from tests.build_engines import small_graphs as small

TARGETS = ("8.6", "8.9", "12.0")


@pytest.fixture
def library() -> Library:
    found = find_compiler()
    if found is None:
        pytest.skip("tensorrt_rtx is not installed")
    return found


@pytest.fixture(scope="module")
def integer_net() -> bytes:
    before = prepare(small.camera_net())
    found = sites(before)
    names = sorted({name for site in found for name in site.activations})
    return serialised(quantise(before, small.ranges(before, small.pictures(4), names), found))


def test_one_file_serves_all_targets_and_progress_is_told(library: Library, integer_net: bytes) -> None:
    told: list[float] = []
    built = compile_graph(library, integer_net, "vision in int8", TARGETS, 64, lambda part, _: told.append(part))
    assert built.compute == TARGETS
    assert built.plan[:4] == b"vtrt"
    assert told == sorted(told) and told[-1] == 1.0


def test_an_unknown_target_is_the_users_mistake(library: Library, integer_net: bytes) -> None:
    with pytest.raises(ConfigError, match=r"'9\.9'.*builds ahead of time for .*8\.6"):
        compile_graph(library, integer_net, "vision in int8", ("9.9",), 64)


def test_every_target_from_ampere_on_that_it_names_it_builds_for(library: Library, integer_net: bytes) -> None:
    """Turing (7.5) has no FP32 matrix product there."""
    targets = tuple(target for target in known_compute(library) if float(target) >= 8)
    assert set(TARGETS) < set(targets)
    assert compile_graph(library, integer_net, "vision in int8", targets, 64).compute == targets


@pytest.mark.parametrize(("target", "board"), [("8.7", "Jetson Orin"), ("11.0", "Jetson Thor")])
def test_a_jetson_is_built_for_where_the_compiler_can_and_else_refused_by_name(
    library: Library, integer_net: bytes, target: str, board: str
) -> None:
    if target in known_compute(library):
        assert compile_graph(library, integer_net, "vision in int8", (target,), 64).compute == (target,)
        return
    with pytest.raises(ConfigError, match=rf"'{target}' \({board}\): tensorrt_rtx .*the device builds its own engine"):
        compile_graph(library, integer_net, "vision in int8", ("8.6", target), 64)


def test_a_graph_that_is_not_taken_is_refused_by_its_node(library: Library) -> None:
    odd = helper.make_node("Det", ["x"], ["y"], name="/odd/Node")
    made = small.model([odd], {"x": (TensorProto.FLOAT, [1, 4, 4])}, {"y": (TensorProto.FLOAT, [1])}, {})
    with pytest.raises(GateRefused, match=r"^compile: head in fp16: .*cannot take its graph: .*/odd/Node"):
        compile_graph(library, serialised(made), "head in fp16", TARGETS, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantise_layers": 1}, "quantise and dequantise nodes"),
        ({"plan": b"x"}, "the engine has 1 bytes"),
        ({"warnings": ("something odd",)}, "unexpected warning: something odd"),
    ],
)
def test_an_engine_that_looks_wrong_is_refused(
    library: Library, integer_net: bytes, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    build = compile_stage.build_engine

    def odd(*arguments: object, **options: object) -> Built:
        return dataclasses.replace(build(*arguments, **options), **change)  # type: ignore[arg-type]

    monkeypatch.setattr(compile_stage, "build_engine", odd)
    with pytest.raises(GateRefused, match=f"^compile: vision in int8: .*{words}"):
        compile_graph(library, integer_net, "vision in int8", TARGETS, 64)
