"""Only what leads to the wanted outputs, and only operators that the targets know."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ModelProto

from build_engines.foreign.read import ONNX_DOMAINS, nodes_of
from build_engines.graphs import producers
from edge_runtime.errors import UserError

CONTROL_FLOW = ("If", "Loop", "Scan")


def keep_outputs(model: ModelProto, names: Sequence[str], where: str) -> None:
    """Take away, in place, every output that is not in `names` and all that leads to those alone. Raises UserError."""
    graph = model.graph
    known = [value.name for value in graph.output]
    for name in names:
        if name not in known:
            raise UserError(f"{where}: has no output {name!r}; there are {', '.join(known)}")
    wanted = leading_to(graph, names)
    nodes = [node for node in graph.node if any(output in wanted for output in node.output)]
    outputs = [next(value for value in graph.output if value.name == name) for name in names]
    read = {name for node in nodes for name in _read_by(node)} | set(names)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    inputs = [value for value in graph.input if value.name in read]
    for field, kept in (
        (graph.node, nodes),
        (graph.output, outputs),
        (graph.initializer, constants),
        (graph.input, inputs),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)


def leading_to(graph: GraphProto, names: Sequence[str]) -> set[str]:
    """Every tensor of `graph` that `names` are computed from, themselves included."""
    made, waiting, seen = producers(graph), list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name and name not in seen:
            seen.add(name)
            if name in made:
                waiting += _read_by(made[name])
    return seen


def _read_by(node: object) -> list[str]:
    """The tensors that a node reads, those that the graphs inside it read from outside among them."""
    names = list(node.input)  # type: ignore[attr-defined]
    for attribute in node.attribute:  # type: ignore[attr-defined]
        for inner in (attribute.g, *attribute.graphs):
            names += [name for inside in nodes_of(inner) for name in inside.input]
            names += [value.name for value in inner.output]
    return names


def refuse_foreign(model: ModelProto, where: str) -> None:
    """Raise UserError naming the operators that are not ONNX's own: TensorRT knows none of them."""
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in nodes_of(model.graph) if node.domain not in ONNX_DOMAINS}
    )
    if foreign:
        raise UserError(
            f"{where}: operators beyond ai.onnx: {', '.join(foreign)}; export the graph without them (from the float "
            "model: neither quantised nor optimised by ONNX Runtime, without a classifier's ZipMap)"
        )


def refuse_control_flow(model: ModelProto, where: str) -> None:
    """Raise UserError naming a branch or loop that is still there when constants are folded: its shapes and its time
    depend on the input, and neither INT8 nor an engine compiled ahead of time can be made of it.
    """
    for node in model.graph.node:
        if node.op_type in CONTROL_FLOW:
            raise UserError(
                f"{where}: node {node.name or node.output[0]!r} is control flow ({node.op_type}) that depends on the "
                "input; export the model by tracing, with a fixed number of steps"
            )
