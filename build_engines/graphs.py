"""Small questions to ask of an ONNX graph."""

from __future__ import annotations

from collections import defaultdict

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, shape_inference


def initialisers(graph: GraphProto) -> dict[str, TensorProto]:
    """Name to constant tensor."""
    return {tensor.name: tensor for tensor in graph.initializer}


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Tensor to the node that makes it."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Tensor to the nodes that read it."""
    nodes: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            nodes[name].append(node)
    return nodes


def tensor_types(model: ModelProto) -> dict[str, int]:
    """Tensor to its element type, by shape inference."""
    graph = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def constants_to_initialisers(model: ModelProto) -> None:
    """Turn Constant nodes of a plain value into initialisers, in place: one way to hold a constant is enough."""
    remaining = []
    for node in model.graph.node:
        value = next((item for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            remaining.append(node)
    del model.graph.node[:]
    model.graph.node.extend(remaining)


def name_nodes(model: ModelProto) -> None:
    """Give every node a distinct name, in place; those that have one keep it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def copied(model: ModelProto) -> ModelProto:
    """Another like it, to be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def serialised(model: ModelProto) -> bytes:
    """The bytes of an ONNX file."""
    data: bytes = model.SerializeToString()
    return data
