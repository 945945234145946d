"""Branches that constants decide, put in their place: of both, only the one that is taken is left.

ONNX Runtime does so too when it opens a graph, but crashes on some.
"""

from __future__ import annotations

import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from build_engines.foreign import trim
from build_engines.graphs import initialisers, serialised


def decide_branches(model: ModelProto) -> None:
    """Replace, in place, every `If` whose condition follows from constants by its branch, those inside too. What
    depends on an input, or on a shape, stays."""
    undecided: set[str] = set()
    while (node := _next(model.graph, undecided)) is not None:
        condition = _condition(model, node.input[0])
        if condition is None:
            undecided.add(node.output[0])
        else:
            _put_in_place(model.graph, node, condition)


def _next(graph: GraphProto, undecided: set[str]) -> NodeProto | None:
    return next((node for node in graph.node if node.op_type == "If" and node.output[0] not in undecided), None)


def _condition(model: ModelProto, name: str) -> bool | None:
    """What a tensor always holds; None where no constants say so."""
    graph = model.graph
    needed = trim.leading_to(graph, [name])
    constants = {key: tensor for key, tensor in initialisers(graph).items() if key in needed}
    nodes = [node for node in graph.node if any(output in needed for output in node.output)]
    from_outside = any(value.name in needed and value.name not in constants for value in graph.input)
    if from_outside or any(node.op_type in trim.CONTROL_FLOW for node in nodes):
        return None
    answer = helper.make_tensor_value_info(f"{name}/always", TensorProto.BOOL, None)
    nodes.append(helper.make_node("Identity", [name], [answer.name]))
    part = helper.make_graph(nodes, "condition", [], [answer], list(constants.values()))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        whole = helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        session = onnxruntime.InferenceSession(serialised(whole), options, providers=["CPUExecutionProvider"])
        (values,) = session.run(None, {})
    except Exception:  # what is wrong with it is told where the whole graph is opened
        return None
    return bool(values.reshape(-1)[0])


def _put_in_place(graph: GraphProto, node: NodeProto, condition: bool) -> None:
    """`node` replaced by the nodes of the branch that is taken."""
    wanted = "then_branch" if condition else "else_branch"
    branch = next(item.g for item in node.attribute if item.name == wanted)
    prefix = f"{node.name or node.output[0]}/{wanted}/"
    made = {tensor.name for tensor in branch.initializer} | {name for inner in branch.node for name in inner.output}
    names = {name: prefix + name for name in made if name}
    fresh = []
    for inner in branch.node:
        copy = NodeProto()
        copy.CopyFrom(inner)
        _rename(copy, names)
        copy.name = prefix + (inner.name or inner.output[0])
        fresh.append(copy)
    for tensor in branch.initializer:
        own = TensorProto()
        own.CopyFrom(tensor)
        own.name = names[tensor.name]
        graph.initializer.append(own)
    for value, output in zip(branch.output, node.output, strict=True):
        fresh.append(helper.make_node("Identity", [names.get(value.name, value.name)], [output], name=prefix + output))
    place = next(index for index, other in enumerate(graph.node) if other.output[:1] == node.output[:1])
    rest = [*graph.node[:place], *fresh, *graph.node[place + 1 :]]
    copies = [NodeProto.FromString(item.SerializeToString()) for item in rest]
    del graph.node[:]
    graph.node.extend(copies)


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    """Call tensors as `names` says, in the graphs inside too, where they do not make their own of that name."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for graph in inner:
            own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
            own |= {name for node in graph.node for name in node.output}
            outer = {name: new for name, new in names.items() if name not in own}
            for below in graph.node:
                _rename(below, outer)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)
